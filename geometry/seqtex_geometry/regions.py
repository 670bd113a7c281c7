"""Regions of a surface that its author set apart by plain materials: each is filled by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from .fill import fill_nearest_surface
from .mesh import IntArray, Mesh

_MAX_SOURCES = 200_000


def face_regions(mesh: Mesh) -> IntArray:
    """Number of the plain material that each face shows, ``[T]``; -1 for faces with an image.

    A tyre and a rim are two materials where nothing else says so; an image holds many things.

    Args:
        mesh: any.
    """
    plain = np.array([material.is_plain for material in mesh.materials])
    return np.where(plain[mesh.face_material], mesh.face_material, -1)


def numbered_pairs(part: Tensor, region: Tensor) -> Tensor:
    """One number for each pair of a part and a region, from 0, in their order, ``[N]`` int64.

    Args:
        part: ``[N]``.
        region: ``[N]``.
    """
    pairs = torch.stack([part, region], dim=1)
    number: Tensor = pairs.unique(dim=0, return_inverse=True)[1]
    return number


def fill_by_region(
    position: Tensor,
    color: Tensor,
    known: Tensor,
    region: Tensor,
    fill: Callable[[Tensor], Tensor],
) -> Tensor:
    """Colours of all points; no colour runs from one region into another.

    Regions of which nothing is known take the colours of the nearest points of the others.

    Args:
        position: points on the surface, ``[N, 3]``.
        color: ``[N, C]``; rows that are not known are ignored.
        known: True where the colour counts, ``[N]``.
        region: number of the region that a point belongs to, ``[N]``.
        fill: colours ``[M, C]`` of some rows, ``[M]`` int64, of which some are known.
    """
    result = color.clone()
    left = []
    for rows in _groups(region):
        if bool(known[rows].any()):
            result[rows] = fill(rows)
        else:
            left.append(rows)
    bare = torch.cat(left) if left else region.new_zeros(0)
    if not 0 < len(bare) < len(region):
        return result if not len(bare) else fill(torch.arange(len(region), device=region.device))
    is_source = torch.ones_like(region, dtype=torch.bool)
    is_source[bare] = False
    source = torch.nonzero(is_source)[:, 0]
    source = source[:: max(1, len(source) // _MAX_SOURCES)]
    rows = torch.cat([source, bare])
    there = torch.arange(len(rows), device=rows.device) < len(source)
    result[bare] = fill_nearest_surface(position[rows], result[rows], there)[len(source) :]
    return result


def _groups(region: Tensor) -> Iterator[Tensor]:
    """Rows of each region, in order."""
    _, counts = region.unique(return_counts=True)
    order = region.argsort(stable=True)
    return iter(order.split(counts.tolist()))
