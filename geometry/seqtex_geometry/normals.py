"""Smooth vertex normals, where a file has none."""

from __future__ import annotations

import numpy as np

from .mesh import FloatArray, IntArray


def smooth_normals(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Angle-weighted unit normals, ``[V, 3]``.

    Vertices at identical positions share one normal, so that neither UV seams nor the split
    vertices of a triangle soup crease the surface. Weighting by the corner angle makes the result
    independent of how a flat polygon was cut into triangles.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[T, 3]``.

    Convention:
        Where a vertex has no face with area, or where its faces cancel out, the normal is +z.

    Source:
        Thürmer and Wüthrich, Computing Vertex Normals from Polygonal Facets, 1998.
    """
    point_of_vertex, points = merged_positions(vertices)
    corners = vertices[faces].astype(np.float64)
    edges = np.roll(corners, -1, axis=1) - corners
    face_normals = _unit(np.cross(edges[:, 0], edges[:, 1]))
    ahead, behind = _unit(edges), _unit(-np.roll(edges, 1, axis=1))
    angles = np.arccos(np.clip(np.einsum("tcx,tcx->tc", ahead, behind), -1.0, 1.0))
    weighted = face_normals[:, None, :] * angles[..., None]
    sums = np.zeros((len(points), 3))
    rows = point_of_vertex[faces].ravel()
    for axis in range(3):
        sums[:, axis] = np.bincount(rows, weighted[..., axis].ravel(), minlength=len(points))
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    normals = np.where(length > 1e-12, sums / np.maximum(length, 1e-12), (0.0, 0.0, 1.0))
    return normals[point_of_vertex].astype(np.float32)


def complete_normals(normals: FloatArray, vertices: FloatArray, faces: IntArray) -> FloatArray:
    """The author's unit normals, with smooth ones in rows that are NaN or zero, ``[V, 3]``."""
    length = np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
    missing = ~(np.isfinite(length) & (length > 1e-12))[:, 0]
    unit = normals / np.where(missing[:, None], 1.0, length)
    if missing.any():
        unit[missing] = smooth_normals(vertices, faces)[missing]
    return unit.astype(np.float32)


def merged_positions(vertices: FloatArray) -> tuple[IntArray, IntArray]:
    """For each vertex its distinct position, ``[V]``, and a vertex at each position, ``[P]``."""
    exact = np.ascontiguousarray(vertices + np.float32(0.0))  # -0.0 becomes 0.0
    keys = exact.view(np.dtype((np.void, exact.dtype.itemsize * 3)))[:, 0]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return inverse.reshape(-1).astype(np.int64), first.astype(np.int64)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
