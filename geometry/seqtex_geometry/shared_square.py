"""Layouts that fit into one UV square together, because none lies over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from .mesh import BoolArray, FloatArray, IntArray
from .uv_tiles import wrap_face_uvs

_SIZE = 512  # samples per side of the square
_OFF_CENTRE = (0.50137, 0.50231)  # so that no sample lies on an edge that two layouts share
_FEW = 256  # samples that usually tell
_SMALL_FACES = 0.1  # share of a layout's surface between samples that says nothing
_MOST_SQUARES = 256  # a quarter of a megabyte each


@dataclass(frozen=True, kw_only=True, eq=False)
class _Place:
    """What a layout takes of the square.

    Args:
        inside: samples inside its faces, sorted.
        near: the sample nearest to each face between the samples, ``[N]``, if much of the surface
            is such faces.
        share: share of the layout's surface that each of them is, ``[N]``.
    """

    inside: IntArray
    near: IntArray
    share: FloatArray


def layouts_that_fit(layouts: Sequence[FloatArray], face_areas: Sequence[FloatArray]) -> list[int]:
    """For each layout the first one whose square it shares; its own number if it starts one.

    Layouts are placed one by one, each into the first square where its place is free. Neighbours
    may touch, as they do where an author cut one chart into two materials.

    Args:
        layouts: UVs of each layout's faces, ``[T, 3, 2]``, finite.
        face_areas: area of these faces on the surface, ``[T]`` each.

    Convention:
        Places are compared on a grid of samples. Faces between the samples count by their
        surface: a layout that is mostly such faces, as those of a palette are, needs a free spot.
    """
    squares: dict[int, BoolArray] = {}
    owners = []
    for number, (uvs, areas) in enumerate(zip(layouts, face_areas, strict=True)):
        place = _place(uvs, areas)
        owner = number
        if place is not None:
            owner = next((one for one, taken in squares.items() if _is_free(place, taken)), number)
            if owner == number and len(squares) < _MOST_SQUARES:
                squares[number] = np.zeros(_SIZE**2, np.bool_)
            if owner in squares:
                squares[owner][place.inside] = True
                squares[owner][place.near] = True
        owners.append(owner)
    return owners


def _is_free(place: _Place, taken: BoolArray) -> bool:
    stride = max(1, len(place.inside) // _FEW)
    if taken[place.inside[::stride]].any() or taken[place.inside].any():
        return False
    return float(place.share[taken[place.near]].sum()) <= _SMALL_FACES


def _place(uvs: FloatArray, areas: FloatArray) -> _Place | None:
    """``None`` if faces repeat the texture too often to be placed."""
    try:
        moved, source = wrap_face_uvs(uvs)
    except InputError:
        return None
    corners = moved.astype(np.float64) * _SIZE
    face, line, first, stop = _spans(corners)
    steps = np.zeros((_SIZE, _SIZE + 1), np.int32)
    np.add.at(steps, (line, first), 1)
    np.add.at(steps, (line, stop), -1)
    is_inside = (steps.cumsum(axis=1)[:, :_SIZE] > 0).ravel()
    sampled = np.zeros(len(uvs), np.bool_)
    sampled[source[face]] = True
    small = ~sampled[source]
    cell = np.clip(np.floor(corners[small].mean(axis=1)), 0, _SIZE - 1).astype(np.int64)
    near = cell[:, 1] * _SIZE + cell[:, 0]
    share = areas[source[small]] / max(float(areas.sum()), 1e-300)
    telling = ~is_inside[near]  # elsewhere the layout's own faces are around it
    if float(share[telling].sum()) <= _SMALL_FACES:
        telling[:] = False  # the fine border of a dense mesh
    return _Place(inside=np.flatnonzero(is_inside), near=near[telling], share=share[telling])


def _spans(
    corners: npt.NDArray[np.float64],
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Runs of samples inside faces: face, line, first sample, and the one past the last.

    Args:
        corners: in samples, ``[N, 3, 2]``.
    """
    low = np.ceil(corners[..., 1].min(axis=1) - _OFF_CENTRE[1]).clip(0, _SIZE)
    high = np.floor(corners[..., 1].max(axis=1) - _OFF_CENTRE[1]).clip(-1, _SIZE - 1)
    count = (high - low + 1).clip(0).astype(np.int64)
    face = np.repeat(np.arange(len(corners)), count)
    line = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    line += low[face].astype(np.int64)
    left, right = np.full(len(face), np.inf), np.full(len(face), -np.inf)
    for index in range(3):
        x = _crossing(corners[:, index], corners[:, (index + 1) % 3], face, line)
        left, right = np.fmin(left, x), np.fmax(right, x)
    first = np.ceil(left - _OFF_CENTRE[0]).clip(0, _SIZE).astype(np.int64)
    stop = (np.floor(right - _OFF_CENTRE[0]).clip(-1, _SIZE - 1) + 1).astype(np.int64)
    some = stop > first
    return face[some], line[some], first[some], stop[some]


def _crossing(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], face: IntArray, line: IntArray
) -> npt.NDArray[np.float64]:
    """Where an edge of each face crosses a line of samples; NaN if it does not.

    An edge that two faces share gives both the same number: it is always followed upwards.
    """
    upwards = (one[:, 1] <= other[:, 1])[:, None]
    start, end = np.where(upwards, one, other), np.where(upwards, other, one)
    height = end[:, 1] - start[:, 1]
    slope = np.divide(end[:, 0] - start[:, 0], height, out=np.zeros_like(height), where=height > 0)
    y = line + _OFF_CENTRE[1]
    crosses = (start[face, 1] <= y) & (y < end[face, 1])
    return np.where(crosses, start[face, 0] + (y - start[face, 1]) * slope[face], np.nan)
