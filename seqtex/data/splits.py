"""Which shape families and texture kinds training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from seqtex_core.errors import UsageError

from .shapes.families import SHAPE_FAMILIES
from .textures.kinds import texture_kinds

Split = Literal["train", "held-out", "all"]

HELD_OUT_FAMILIES = ("boolean", "bird", "teapot", "aircraft", "flower", "spring")
HELD_OUT_KINDS = ("plaid", "wood", "bubbles", "zigzag", "sunburst", "stitched")


def split_families(split: Split, held_out: Sequence[str] = HELD_OUT_FAMILIES) -> list[str]:
    """Shape families of a split, sorted.

    Args:
        split: ``train``, ``held-out`` or ``all``.
        held_out: the families that training does not see.

    Raises:
        UsageError: an unknown family or split, or a split without families.
    """
    return _part("shape family", SHAPE_FAMILIES.names(), split, held_out)


def split_kinds(split: Split, held_out: Sequence[str] = HELD_OUT_KINDS) -> list[str]:
    """Texture kinds of a split, sorted; see :func:`split_families`."""
    return _part("texture kind", texture_kinds(), split, held_out)


def _part(what: str, names: list[str], split: Split, held_out: Sequence[str]) -> list[str]:
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise UsageError(f"held-out {what}", expected="one of " + ", ".join(names), got=unknown[0])
    chosen = {
        "train": [name for name in names if name not in held_out],
        "held-out": [name for name in names if name in held_out],
        "all": names,
    }
    if split not in chosen:
        raise UsageError("split", expected="train, held-out or all", got=repr(split))
    if not chosen[split]:
        raise UsageError(f"split {split!r}", expected=f"at least one {what}", got="none")
    return chosen[split]


def held_out_names(names: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Held-out shape families and texture kinds of a list of names with commas between.

    Args:
        names: ``None`` gives the default ones.

    Raises:
        UsageError: a name that is neither.
    """
    if names is None:
        return HELD_OUT_FAMILIES, HELD_OUT_KINDS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    families, kinds = SHAPE_FAMILIES.names(), texture_kinds()
    unknown = [name for name in wanted if name not in families and name not in kinds]
    if unknown:
        known = ", ".join([*families, *kinds])
        raise UsageError("held-out name", expected=f"one of {known}", got=repr(unknown[0]))
    return (
        tuple(name for name in wanted if name in families),
        tuple(name for name in wanted if name in kinds),
    )
