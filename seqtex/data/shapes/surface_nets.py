"""Closed meshes of implicit surfaces: naive surface nets, vectorised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .part import Array, Indices, Part

Distance = Callable[[Array], Array]
Inside = npt.NDArray[np.bool_]
_STEPS = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])


def implicit_part(
    distance: Distance, *, bound: float, resolution: int, crease: float = 180.0, refine: int = 2
) -> Part:
    """The surface where ``distance`` changes sign, as a closed part.

    Args:
        distance: negative inside, from ``[N, 3]`` to ``[N]``; about a distance near the surface.
        bound: the solid lies inside the cube [-bound, bound]^3; what sticks out is cut off flat.
        resolution: cells along each edge of the cube.
        crease: see :class:`Part`.
        refine: Newton steps that pull the vertices onto the surface.

    Source:
        Gibson, Constrained Elastic Surface Nets, 1998.
    """
    line = np.linspace(-bound, bound, resolution + 1)
    corners = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    values = distance(corners.reshape(-1, 3)).reshape(corners.shape[:3])
    values = np.where(values == 0, 1e-9, values)
    rim = np.zeros(values.shape, dtype=bool)
    for axis in range(3):
        for end in (0, -1):
            rim[(slice(None),) * axis + (end,)] = True
    values[rim] = np.abs(values[rim])
    vertices, faces = surface_nets(values)
    cell = 2 * bound / resolution
    points = vertices * cell - bound
    for _ in range(refine):
        points = points - _newton_step(distance, points, cell)
    return Part(vertices=points, faces=faces, crease=crease, closed=True)


def surface_nets(values: Array) -> tuple[Array, Indices]:
    """Vertices in grid units and triangles of the zero level of a grid, inside negative."""
    inside = values < 0
    cells = np.array(values.shape) - 1
    count = np.zeros(cells, dtype=np.int64)
    for step in _STEPS:
        count += _shifted(inside, step, cells)
    active = (count > 0) & (count < 8)
    cell_idx = np.argwhere(active)
    number = np.full(cells, -1, dtype=np.int64)
    number[active] = np.arange(len(cell_idx))
    vertices = cell_idx + _mean_crossing(values, cell_idx)
    return vertices, _faces(inside, number)


def _shifted(grid: Inside, step: Indices, cells: Indices) -> Inside:
    return grid[tuple(slice(s, s + c) for s, c in zip(step, cells, strict=True))]


def _mean_crossing(values: Array, cell_idx: Indices) -> Array:
    """Mean of the edge crossings of each cell, in [0, 1]^3."""
    corner = np.stack([values[tuple((cell_idx + step).T)] for step in _STEPS], axis=1)
    total = np.zeros((len(cell_idx), 3))
    hits = np.zeros(len(cell_idx))
    for a in range(8):
        for axis in range(3):
            if _STEPS[a, axis]:
                continue
            b = a + (4, 2, 1)[axis]
            va, vb = corner[:, a], corner[:, b]
            crosses = (va < 0) != (vb < 0)
            share = np.where(crosses, va / np.where(crosses, va - vb, 1.0), 0.0)
            point = _STEPS[a] + share[:, None] * np.eye(3)[axis]
            total += np.where(crosses[:, None], point, 0.0)
            hits += crosses
    return total / hits[:, None]


def _faces(inside: Inside, number: Indices) -> Indices:
    """Two triangles around every grid edge that changes sign."""
    quads: list[Indices] = []
    for axis in range(3):
        ahead = np.roll(inside, -1, axis=axis)
        inner: list[slice] = [slice(1, -1)] * 3
        inner[axis] = slice(0, -1)
        window = tuple(inner)
        offset = np.array([s.start for s in inner])
        changes = np.argwhere(inside[window] != ahead[window]) + offset
        outward = inside[tuple(changes.T)]
        u, v = np.roll(np.eye(3, dtype=np.int64), -axis, axis=0)[1:]
        around = [number[tuple((changes - du * u - dv * v).T)] for du, dv in _AROUND]
        quad = np.stack(around, axis=1)
        quads.append(np.where(outward[:, None], quad, quad[:, ::-1]))
    joined = np.concatenate(quads)
    return np.concatenate([joined[:, [0, 1, 2]], joined[:, [0, 2, 3]]])


_AROUND = ((1, 1), (0, 1), (0, 0), (1, 0))


def _newton_step(distance: Distance, points: Array, cell: float) -> Array:
    """Step along the gradient onto the surface, at most half a cell."""
    h = 0.1 * cell
    value = distance(points)
    sides = [distance(points + h * axis) - distance(points - h * axis) for axis in np.eye(3)]
    gradient = np.stack(sides, axis=1) / (2 * h)
    square = np.maximum((gradient**2).sum(axis=1), 0.05)
    step = (value / square)[:, None] * gradient
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return np.asarray(step * np.minimum(1.0, 0.5 * cell / np.maximum(length, 1e-12)))
