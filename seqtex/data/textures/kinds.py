"""All texture kinds by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from seqtex_core.registry import Registry

from .brush import Brush
from .points import Field, Paint

FieldKind = Callable[[Brush], Field]
PaintKind = Callable[[Brush], Paint]

_FIELDS = {
    "kinds_periodic": (
        "stripes",
        "rings",
        "spiral",
        "sunburst",
        "checks",
        "dots",
        "zigzag",
        "bricks",
        "scales",
    ),
    "kinds_noise": (
        "clouds",
        "ridges",
        "marble",
        "wood",
        "blotches",
        "speckles",
        "cracks",
        "bubbles",
    ),
    "kinds_object": ("gradient", "topping", "two_sided", "stitched"),
    "kinds_decals": ("badges", "glyphs"),
}
_PAINTS = {
    "kinds_periodic": ("plaid", "panels"),
    "kinds_noise": ("camouflage", "terrazzo", "cells", "dream"),
    "kinds_object": ("bands", "facing", "parts"),
    "kinds_decals": ("visage",),
}


def _lazy(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {
        name: f"{__package__}.{module}:{name}" for module, names in table.items() for name in names
    }


FIELD_KINDS: Registry[FieldKind] = Registry(
    "texture field", _lazy(_FIELDS), entry_point_group="seqtex.texture_fields"
)
"""Scalar patterns; they serve as masks too."""

PAINT_KINDS: Registry[PaintKind] = Registry(
    "texture paint", _lazy(_PAINTS), entry_point_group="seqtex.texture_paints"
)
"""Patterns that choose their colours themselves."""


def texture_kinds() -> list[str]:
    """The names of all kinds, sorted."""
    return sorted(known_kinds())


@cache
def field_kinds() -> frozenset[str]:
    """The names of the kinds that are scalar fields; read once, because a registry is slow."""
    return frozenset(FIELD_KINDS.names())


@cache
def known_kinds() -> frozenset[str]:
    """The names of all kinds; read once."""
    return field_kinds() | frozenset(PAINT_KINDS.names())


def paint_of_kind(name: str, brush: Brush) -> Paint:
    """A paint of the named kind, coloured from the brush's palette.

    Raises:
        UsageError: no such kind.
    """
    if name in field_kinds():
        return brush.colored(FIELD_KINDS.get(name)(brush))
    return PAINT_KINDS.get(name)(brush)
