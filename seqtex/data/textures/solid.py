"""A whole texture: kinds combined by material group, by masks and by marks, then finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import UsageError

from .brush import Brush
from .kinds import FIELD_KINDS, field_kinds, known_kinds, paint_of_kind
from .noise import noise_field
from .palettes import draw_palette
from .points import Field, ObjectFacts, Paint, SurfacePoints

_OVERLAYS = (
    "badges",
    "glyphs",
    "speckles",
    "stitched",
    "topping",
    "two_sided",
    "cracks",
    "stripes",
)


_NO_COLORS = np.zeros((1, 3), dtype=np.float32)  # masks need none


@dataclass(frozen=True, kw_only=True, eq=False)
class SolidTexture:
    """A colour for every point of space, drawn for one object.

    Args:
        paint: the pattern.
        kinds: names of the kinds that went into it, the dominant first.
        mirrored: whether it is a function of ``|x|`` in the object frame.
    """

    paint: Paint
    kinds: tuple[str, ...]
    mirrored: bool

    def __call__(self, points: SurfacePoints) -> Tensor:
        """SRGB ``[N, 3]`` in [0, 1]."""
        return self.paint(points.mirrored() if self.mirrored else points).clamp(0.0, 1.0)


def draw_solid_texture(
    rng: np.random.Generator, facts: ObjectFacts, kinds: Sequence[str]
) -> SolidTexture:
    """A random texture made of the named kinds only.

    Raises:
        UsageError: no kinds, or an unknown one.
    """
    if not kinds:
        raise UsageError("texture kinds", expected="at least one", got="none")
    recipe = _Recipe(rng, facts, kinds)
    style = rng.random()
    if facts.num_parts > 1 and style < 0.5:
        paint = recipe.by_part()
    elif style < 0.62:
        paint = recipe.single()
    else:
        paint = recipe.layered()
    if rng.random() < 0.3:
        paint = _weathered(rng, paint)
    mirrored = bool(rng.random() < (0.6 if facts.symmetric else 0.1))
    return SolidTexture(paint=paint, kinds=tuple(recipe.used), mirrored=mirrored)


class _Recipe:
    """Draws the paints of one texture and remembers their kinds."""

    def __init__(self, rng: np.random.Generator, facts: ObjectFacts, kinds: Sequence[str]) -> None:
        self._rng, self._facts, self._kinds = rng, facts, list(kinds)
        self._fields = [name for name in self._kinds if name in field_kinds()]
        self._overlays = [name for name in _OVERLAYS if name in self._fields]
        self.used: list[str] = []
        unknown = [name for name in self._kinds if name not in known_kinds()]
        if unknown:
            known = ", ".join(sorted(known_kinds()))
            raise UsageError("texture kind", expected=f"one of {known}", got=repr(unknown[0]))

    def _brush(self, palette: np.ndarray | None = None) -> Brush:
        colors = draw_palette(self._rng) if palette is None else palette
        return Brush(rng=self._rng, palette=colors, facts=self._facts)

    def single(self, brush: Brush | None = None) -> Paint:
        """One kind."""
        name = self._kinds[int(self._rng.integers(len(self._kinds)))]
        self.used.append(name)
        return paint_of_kind(name, brush or self._brush())

    def layered(self) -> Paint:
        """A ground with one to three masked layers."""
        paint = self.single()
        for _ in range(int(self._rng.integers(1, 4))):
            if not self._fields:
                return paint
            paint = _over(paint, self._layer(), self._mask())
        return paint

    def by_part(self) -> Paint:
        """A few paints, one for each material group; sometimes marks over all."""
        count = self._facts.num_parts
        shared = draw_palette(self._rng, 6)
        paints: list[Paint] = []
        for _ in range(min(count, int(self._rng.integers(2, 6)))):
            colors = np.roll(shared, int(self._rng.integers(6)), axis=0)
            brush = self._brush(colors)
            plain = self._rng.random() < (0.55 if paints else 0.35)
            paints.append(brush.plain(0) if plain else self.single(brush))
        if not self.used:
            paints[0] = self.single(self._brush(shared))
        owner = [
            k if k < len(paints) else int(self._rng.integers(len(paints))) for k in range(count)
        ]
        paint = _by_part(paints, owner)
        if self._overlays and self._rng.random() < 0.3:
            paint = _over(paint, self._brush(shared).plain(), self._mask())
        return paint

    def _layer(self) -> Paint:
        brush = self._brush()
        return brush.plain() if self._rng.random() < 0.55 else self.single(brush)

    def _mask(self) -> Field:
        prefer = self._overlays and self._rng.random() < 0.6
        names = self._overlays if prefer else self._fields
        name = names[int(self._rng.integers(len(names)))]
        self.used.append(name)
        return FIELD_KINDS.get(name)(self._brush(_NO_COLORS))


def _over(ground: Paint, layer: Paint, mask: Field) -> Paint:
    """``layer`` on ``ground`` where the mask is 1; it is only evaluated where it shows."""

    def paint(points: SurfacePoints) -> Tensor:
        color = ground(points)
        share = mask(points)
        shown = torch.nonzero(share > 0)[:, 0]
        if shown.numel() == 0:
            return color
        blended = torch.lerp(color[shown], layer(points.select(shown)), share[shown].unsqueeze(-1))
        return color.index_copy(0, shown, blended)

    return paint


def _by_part(paints: Sequence[Paint], owner: Sequence[int]) -> Paint:
    """Each material group in its own paint."""

    def paint(points: SurfacePoints) -> Tensor:
        chosen = torch.tensor(owner, device=points.part.device)[points.part]
        color = torch.zeros_like(points.position)
        for k, part_paint in enumerate(paints):
            mine = torch.nonzero(chosen == k)[:, 0]
            if mine.numel():
                color[mine] = part_paint(points.select(mine))
        return color

    return paint


def _weathered(rng: np.random.Generator, ground: Paint) -> Paint:
    """Lightness that varies a little over the surface."""
    noise = noise_field(rng, features=float(rng.uniform(0.6, 3.0)))
    amount = float(rng.uniform(0.03, 0.14))
    return lambda points: ground(points) * (1 + amount * noise(points.position)[:, :1])
