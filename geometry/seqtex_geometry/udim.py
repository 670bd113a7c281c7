"""Layouts over several tiles (UDIM): they have one image per tile, where a texture is one image."""

from __future__ import annotations

import numpy as np

from .load.parsed import BORDER_TOLERANCE
from .mesh import FloatArray, IntArray, Mesh
from .shared_square import layouts_that_fit

_TILES_ACROSS = 10  # tile 1001 + u + 10 v
_TILES_UP = 100
_TWINS = 0.5  # share of a tile's faces that repeat faces of others, put aside on purpose
_STEPS = 4096.0  # per tile, within which faces are the same


def udim_tiles(mesh: Mesh) -> int:
    """Number of tiles of a UDIM layout, 0 for other meshes.

    Only what has no image is taken for one: an image says by itself what all tiles show. Nor are
    tiles counted that fit into one square together, or that repeat the same charts, as mirrored
    halves do that were moved aside by one.

    Args:
        mesh: with UVs.
    """
    if mesh.face_uvs is None:
        return 0
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas: FloatArray = np.linalg.norm(cross, axis=1).astype(np.float32)
    plain = np.array([item.base_color_image is None for item in mesh.materials])
    most = 0
    for texture_set in range(mesh.num_texture_sets):
        rows = mesh.faces_of_set(texture_set)
        if len(rows) and plain[mesh.face_material[rows]].all():
            most = max(most, _colliding_tiles(mesh.face_uvs[rows], areas[rows]))
    return most


def _colliding_tiles(face_uvs: FloatArray, areas: FloatArray) -> int:
    tile = np.floor(face_uvs.mean(axis=1)).astype(np.int64)
    local = face_uvs - tile[:, None]
    inside = bool(((local >= -BORDER_TOLERANCE) & (local <= 1 + BORDER_TOLERANCE)).all())
    in_range = bool((tile >= 0).all() and (tile < [_TILES_ACROSS, _TILES_UP]).all())
    number = tile[:, 0] + _TILES_ACROSS * tile[:, 1]
    present = np.unique(number)
    if not inside or not in_range or len(present) < 2 or _repeat_each_other(local, number):
        return 0
    rows = [np.flatnonzero(number == one) for one in present]
    squares = layouts_that_fit([local[r] for r in rows], [areas[r] for r in rows])
    return len(present) if any(squares) else 0


def _repeat_each_other(local: FloatArray, number: IntArray) -> bool:
    """Whether most faces have the place of a face of another tile."""
    steps = np.rint(local * _STEPS).astype(np.int64)
    keys = steps[..., 0] * (2 * int(_STEPS)) + steps[..., 1]
    _, face = np.unique(np.sort(keys, axis=1), axis=0, return_inverse=True)
    pairs = np.unique(np.stack([face.reshape(-1), number], axis=1), axis=0)
    tiles_of_face = np.bincount(pairs[:, 0])
    return bool((tiles_of_face[face.reshape(-1)] > 1).mean() > _TWINS)
