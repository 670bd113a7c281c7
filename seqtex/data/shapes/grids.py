"""Surfaces from grids of points, and flat caps, all with natural charts."""

from __future__ import annotations

import numpy as np

from .part import Array, Indices, Part, joined


def grid_surface(
    points: Array,
    *,
    wrap: bool = False,
    wrap_rows: bool = False,
    pole_start: bool = False,
    pole_end: bool = False,
    crease: float = 180.0,
) -> Part:
    """A surface over a grid of points, one chart.

    Args:
        points: ``[R, C, 3]``; columns run around, rows along.
        wrap: the last column is joined to the first.
        wrap_rows: the last row is joined to the first.
        pole_start: the first row is one point.
        pole_end: the last row is one point.
        crease: see :class:`Part`.
    """
    rows, columns = points.shape[:2]
    down = np.arange(rows if wrap_rows else rows - 1)
    across = np.arange(columns if wrap else columns - 1)
    i, j = np.repeat(down, len(across)), np.tile(across, len(down))
    at = np.arange(rows * columns).reshape(rows, columns)
    if pole_start:
        at[0] = at[0, 0]
    if pole_end:
        at[-1] = at[-1, 0]
    i1, j1 = (i + 1) % rows, (j + 1) % columns
    a, b, c, d = at[i, j], at[i, j1], at[i1, j1], at[i1, j]
    uv = [np.stack([j + dj, i + di], axis=1) for di, dj in ((0, 0), (0, 1), (1, 1), (1, 0))]
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    corner_uv = np.concatenate(
        [np.stack([uv[0], uv[1], uv[2]], axis=1), np.stack([uv[0], uv[2], uv[3]], axis=1)]
    ).astype(np.float64)
    solid = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    faces, corner_uv = faces[solid], corner_uv[solid]
    used, faces = np.unique(faces, return_inverse=True)
    return Part(
        vertices=points.reshape(-1, 3)[used],
        faces=faces.reshape(-1, 3).astype(np.int64),
        crease=crease,
        closed=(wrap and (wrap_rows or (pole_start and pole_end))),
        corner_uv=corner_uv,
        chart=np.zeros(len(corner_uv), dtype=np.int64),
    )


def capped(side: Part, *rings: Array, crease: float) -> Part:
    """A side surface closed by flat fans over its border rings.

    Args:
        side: an open surface whose border vertices are the rings' points.
        rings: closed polylines ``[K, 3]``, star-shaped about their mean: of a grid surface
            ``points[0, ::-1]`` and ``points[-1]``, which fit the side's orientation.
        crease: of the result.
    """
    return welded(joined([side, *(fan(ring) for ring in rings)], crease=crease))


def fan(ring: Array) -> Part:
    """A flat fan over a ring of points ``[K, 3]``, one chart."""
    count = len(ring)
    center = ring.mean(axis=0)
    vertices = np.concatenate([ring, center[None]])
    k = np.arange(count)
    faces = np.stack([k, (k + 1) % count, np.full(count, count)], axis=1)
    return Part(
        vertices=vertices,
        faces=faces,
        closed=False,
        corner_uv=_flattened(vertices)[faces],
        chart=np.zeros(count, dtype=np.int64),
    )


def _flattened(points: Array) -> Array:
    """Coordinates ``[N, 2]`` in the plane that fits the points best."""
    local = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(local, full_matrices=False)
    return np.asarray(local @ axes[:2].T)


def welded(part: Part, tolerance: float = 1e-7) -> Part:
    """Vertices at the same place become one, faces without area go; closedness is claimed."""
    keys = np.round(part.vertices / tolerance).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces: Indices = inverse.reshape(-1)[part.faces]
    solid = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return Part(
        vertices=part.vertices[first],
        faces=faces[solid],
        crease=part.crease,
        closed=True,
        corner_uv=None if part.corner_uv is None else part.corner_uv[solid],
        chart=None if part.chart is None else part.chart[solid],
    )


def box_charts(part: Part) -> Part:
    """The part with one chart per axis direction and connected patch; made for convex parts."""
    corners = part.vertices[part.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.argmax(np.abs(normals), axis=1)
    sign = (np.take_along_axis(normals, axis[:, None], axis=1)[:, 0] < 0).astype(np.int64)
    kept = np.array([[1, 2], [2, 0], [0, 1]])[axis]
    uv = np.take_along_axis(corners, kept[:, None, :], axis=2)
    uv = uv * np.where(sign == 1, -1.0, 1.0)[:, None, None] ** np.array([1, 0])
    return Part(
        vertices=part.vertices,
        faces=part.faces,
        crease=part.crease,
        closed=part.closed,
        corner_uv=uv,
        chart=axis.astype(np.int64) * 2 + sign,
    )
