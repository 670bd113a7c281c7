"""Texture sets that no reference shows take the colours of the others' nearest surface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqtex_geometry.fill import fill_nearest_surface
from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.seams import pad_seams

_MAX_SOURCE_POINTS = 200_000


def fill_unseen_sets(
    textures: Sequence[Tensor], maps: Sequence[SurfaceMaps], shown: Sequence[bool]
) -> tuple[Tensor, ...]:
    """The textures, with those of sets that were not shown painted like the nearest that were.

    Args:
        textures: one per texture set, ``[3, H, W]``.
        maps: their UV maps (F = 1).
        shown: whether a reference shows any of the set.

    Returns:
        The textures as they are if all sets were shown, or none.
    """
    if all(shown) or not any(shown):
        return tuple(textures)
    position, color = _points(textures, maps, shown)
    return tuple(
        texture if ok else _painted_like(position, color, maps[index])
        for index, (texture, ok) in enumerate(zip(textures, shown, strict=True))
    )


def _points(
    textures: Sequence[Tensor], maps: Sequence[SurfaceMaps], shown: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Positions and colours ``[N, 3]`` of texels of the sets that were shown."""
    most = max(1, _MAX_SOURCE_POINTS // sum(shown))
    positions, colors = [], []
    for index in (number for number, ok in enumerate(shown) if ok):
        one = maps[index]
        inside = one.hit[0]
        stride = max(1, int(inside.sum()) // most)
        positions.append(one.position[0][inside][::stride])
        colors.append(textures[index][:, inside].T[::stride])
    return torch.cat(positions), torch.cat(colors)


def _painted_like(position: Tensor, color: Tensor, maps: SurfaceMaps) -> Tensor:
    """The texture of a set in the colours of the nearest known points."""
    hit = maps.hit[0]
    unseen = maps.position[0][hit]
    known = torch.zeros(len(position) + len(unseen), dtype=torch.bool, device=color.device)
    known[: len(position)] = True
    filled = fill_nearest_surface(
        torch.cat([position, unseen]),
        torch.cat([color, torch.zeros_like(unseen)]),
        known,
    )
    texture = torch.zeros(3, *hit.shape, device=color.device)
    texture[:, hit] = filled[len(position) :].T
    return pad_seams(texture, hit)
