"""Which faces are painted by which output texture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .mesh import BoolArray, FloatArray, IntArray
from .shared_square import layouts_that_fit


def assign_texture_sets(
    face_material: IntArray,
    material_keys: Sequence[str | None],
    face_uvs: FloatArray,
    *,
    face_areas: FloatArray,
    mergeable: Sequence[bool],
) -> IntArray:
    """The texture set of every face, ``[T]``; -1 for faces without UVs.

    Faces whose materials show the same image were laid out over one UV square by their author, so
    they share a set. Plain-coloured materials have no image to go by: those share a set whose
    layouts leave each other's place free, as parts of one atlas do. A mesh of a hundred plain
    materials then gets a texture, not a hundred.

    Args:
        face_material: ``[T]``.
        material_keys: what each material's image is known by; ``None`` if it has none.
        face_uvs: ``[T, 3, 2]``; NaN where a face has none.
        face_areas: area of each face on the surface, ``[T]``.
        mergeable: whether a material without key may share a texture with others.

    Convention:
        Sets are numbered in the order in which their first face appears.
    """
    has_uvs = np.asarray(np.isfinite(face_uvs).all(axis=(1, 2)))
    square_of_material = np.arange(len(material_keys))
    first_with_key: dict[str, int] = {}
    for index, key in enumerate(material_keys):
        if key is not None:
            square_of_material[index] = first_with_key.setdefault(key, index)
    plain = [
        index
        for index, key in enumerate(material_keys)
        if key is None and mergeable[index] and bool((face_material[has_uvs] == index).any())
    ]
    if len(plain) > 1:
        rows = [np.flatnonzero(has_uvs & (face_material == index)) for index in plain]
        owners = layouts_that_fit([face_uvs[r] for r in rows], [face_areas[r] for r in rows])
        square_of_material[plain] = [plain[owner] for owner in owners]
    return _numbered(square_of_material[face_material], has_uvs)


def _numbered(squares: IntArray, has_uvs: BoolArray) -> IntArray:
    sets = np.full(len(squares), -1, dtype=np.int64)
    if has_uvs.any():
        _, first, inverse = np.unique(squares[has_uvs], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        sets[has_uvs] = rank[inverse.reshape(-1)]
    return sets
