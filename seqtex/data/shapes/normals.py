"""Vertex normals with hard edges: vertices split where faces meet at more than the crease angle."""

from __future__ import annotations

import numpy as np

from .part import Array, Indices


def corner_normals(vertices: Array, faces: Indices, crease: Array) -> Array:
    """Unit normals of the face corners, ``[T, 3, 3]``.

    A corner averages the faces around its vertex whose normals lie within the crease angle of its
    own face's, weighted by their angle at the vertex.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[T, 3]``.
        crease: angle per face in degrees, ``[T]``.
    """
    corners = vertices[faces]
    edges = np.roll(corners, -1, axis=1) - corners
    cross = np.cross(edges[:, 0], edges[:, 1])
    face_normal = _unit(cross)
    ahead, behind = _unit(edges), _unit(-np.roll(edges, 1, axis=1))
    angle = np.arccos(np.clip((ahead * behind).sum(axis=-1), -1.0, 1.0)).ravel()
    left, right = _corner_pairs(faces)
    agree = (face_normal[left // 3] * face_normal[right // 3]).sum(axis=1)
    limit = np.cos(np.radians(crease))[left // 3]
    keep = (agree >= limit - 1e-9) | (left == right) | (crease[left // 3] >= 180.0)
    left, right = left[keep], right[keep]
    weighted = face_normal[right // 3] * angle[right, None]
    total = np.stack(
        [np.bincount(left, weighted[:, axis], minlength=faces.size) for axis in range(3)], axis=1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    own = np.repeat(face_normal, 3, axis=0)
    normals = np.where(length > 1e-9, total / np.maximum(length, 1e-9), own)
    return np.asarray(normals.reshape(-1, 3, 3))


def _corner_pairs(faces: Indices) -> tuple[Indices, Indices]:
    """All ordered pairs of corners that share a vertex, as corner numbers."""
    flat = faces.ravel()
    order = np.argsort(flat, kind="stable")
    count = np.bincount(flat)
    start = np.cumsum(count) - count
    mine = count[flat[order]]
    left = np.repeat(order, mine)
    rank = np.arange(len(left)) - np.repeat(np.cumsum(mine) - mine, mine)
    right = order[np.repeat(start[flat[order]], mine) + rank]
    return left, right


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 1e-20, length, 1.0))
