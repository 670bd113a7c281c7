"""UVs outside of the unit square, under samplers that do not repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..mesh import FloatArray
from .gltf_file import GltfFile
from .parsed import BORDER_TOLERANCE

REPEAT = 10497
MIRRORED_REPEAT = 33648
WRAP_KEYS = ("wrapS", "wrapT")


def wrap_modes(file: GltfFile, texture: int | None) -> tuple[int, int]:
    """How a texture continues along u and v; a material without one repeats."""
    if texture is None or "sampler" not in file.entry("textures", texture):
        return REPEAT, REPEAT
    sampler = file.entry("samplers", file.entry("textures", texture)["sampler"])
    return int(sampler.get("wrapS", REPEAT)), int(sampler.get("wrapT", REPEAT))


def leaves_square(face_uvs: FloatArray) -> tuple[bool, bool]:
    """Whether faces lie outside of [0, 1] along u and along v, by more than rounding."""
    outside = (face_uvs < -BORDER_TOLERANCE) | (face_uvs > 1 + BORDER_TOLERANCE)
    return bool(outside[..., 0].any()), bool(outside[..., 1].any())


def unmirrored(
    parts: Sequence[FloatArray], modes: tuple[int, int]
) -> tuple[list[FloatArray], tuple[bool, bool]]:
    """UVs brought back into the unit square as a mirroring texture shows them.

    Only where every face lies within one repeat: across a mirror line no face stays a triangle.

    Args:
        parts: UVs of what one texture is on, ``[T, 3, 2]`` each; NaN where a face has none.
        modes: of the texture, along u and v.

    Returns:
        The UVs, and whether they still leave the square along u and v where nothing repeats.
    """
    moved = [part.copy() for part in parts]
    left = [False, False]
    for axis, mode in enumerate(modes):
        if mode == REPEAT or not any(leaves_square(part)[axis] for part in parts):
            continue
        tiles = [_tiles(part[..., axis]) for part in parts]
        if mode != MIRRORED_REPEAT or any(tile is None for tile in tiles):
            left[axis] = True
            continue
        for part, tile in zip(moved, tiles, strict=True):
            assert tile is not None
            local = part[..., axis] - tile[:, None]
            part[..., axis] = np.where(tile[:, None] % 2 == 1, 1 - local, local)
    return moved, (left[0], left[1])


def _tiles(coordinates: FloatArray) -> FloatArray | None:
    """The repeat that each face lies in, ``[T]``; ``None`` if a face lies in several."""
    low, high = coordinates.min(axis=1), coordinates.max(axis=1)
    tile = np.floor((low + high) / 2)
    inside = (low >= tile - BORDER_TOLERANCE) & (high <= tile + 1 + BORDER_TOLERANCE)
    return tile if bool((inside | np.isnan(tile)).all()) else None
