"""Polygons as triangles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..mesh import FloatArray, IntArray

_Points = npt.NDArray[np.float64]


def triangulate(
    corner_counts: IntArray, corner_vertices: IntArray, vertices: FloatArray | _Points
) -> tuple[IntArray, IntArray]:
    """The triangles that a list of polygons is cut into, in the polygons' order.

    A polygon becomes a fan around its first corner, as nearly every program does it, unless a
    triangle of the fan would lie outside of it: then it is cut ear by ear.

    Args:
        corner_counts: corners of each polygon, at least 3, ``[P]``.
        corner_vertices: vertex of every corner, polygon after polygon, ``[C]``.
        vertices: ``[V, 3]``.

    Returns:
        The polygon of each triangle, ``[T]``, and the triangle's corners as positions in
        ``corner_vertices``, ``[T, 3]``.
    """
    starts = np.cumsum(corner_counts) - corner_counts
    per_polygon = corner_counts - 2
    face_polygon = np.repeat(np.arange(len(corner_counts), dtype=np.int64), per_polygon)
    first_face = np.cumsum(per_polygon) - per_polygon
    number = np.arange(len(face_polygon)) - first_face[face_polygon]
    start = starts[face_polygon]
    corners = np.stack([start, start + number + 1, start + number + 2], axis=1)
    for polygon in _bent_polygons(corner_counts, face_polygon, corners, corner_vertices, vertices):
        begin, count = int(starts[polygon]), int(corner_counts[polygon])
        points = vertices[corner_vertices[begin : begin + count]].astype(np.float64)
        first = int(first_face[polygon])
        corners[first : first + count - 2] = np.array(cut_ears(points)) + begin
    return face_polygon, corners


def _bent_polygons(
    corner_counts: IntArray,
    face_polygon: IntArray,
    corners: IntArray,
    corner_vertices: IntArray,
    vertices: FloatArray | _Points,
) -> list[int]:
    """Polygons whose fan has a triangle that is turned against the polygon."""
    suspects = corner_counts[face_polygon] > 3
    if not suspects.any():
        return []
    points = vertices[corner_vertices[corners[suspects]]].astype(np.float64)
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    rows = face_polygon[suspects]
    sums = np.stack(
        [np.bincount(rows, normals[:, i], minlength=len(corner_counts)) for i in range(3)], axis=1
    )
    along = np.einsum("ij,ij->i", normals, sums[rows])
    scale = np.einsum("ij,ij->i", sums[rows], sums[rows])
    return [int(polygon) for polygon in np.unique(rows[along < -1e-9 * scale])]


def cut_ears(points: _Points) -> list[tuple[int, int, int]]:
    """Corner numbers of the ``N - 2`` triangles of one polygon, ``points`` ``[N, 3]``."""
    flat = _projected(points)
    left = list(range(len(flat)))
    triangles: list[tuple[int, int, int]] = []
    while len(left) > 3:
        ear = next((i for i in range(len(left)) if _is_ear(flat, left, i)), 1)
        triangles.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        del left[ear]
    triangles.append((left[0], left[1], left[2]))
    return triangles


def _projected(points: _Points) -> _Points:
    """The polygon in its own plane, counter-clockwise, ``[N, 2]``."""
    centred = points - points.mean(axis=0)
    normal = np.cross(centred, np.roll(centred, -1, axis=0)).sum(axis=0)  # Newell's method
    drop = int(np.abs(normal).argmax())
    flat = centred[:, [(drop + 1) % 3, (drop + 2) % 3]]
    return np.asarray(flat if normal[drop] >= 0 else flat * (1.0, -1.0))


def _turn(a: _Points, b: _Points, c: _Points) -> _Points:
    u, v = b - a, c - b
    return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])


def _is_ear(flat: _Points, left: list[int], index: int) -> bool:
    trio = [left[index - 1], left[index], left[(index + 1) % len(left)]]
    a, b, c = flat[trio]
    if float(_turn(a, b, c)) <= 0.0:
        return False
    others = flat[[corner for corner in left if corner not in trio]]
    inside = (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0)
    return not bool((inside & (_turn(c, a, others) >= 0)).any())
