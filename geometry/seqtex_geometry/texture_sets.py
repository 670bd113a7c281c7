"""Which faces are painted by which output texture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .mesh import BoolArray, IntArray


def assign_texture_sets(
    face_material: IntArray, material_keys: Sequence[str | None], has_uvs: BoolArray
) -> IntArray:
    """The texture set of every face, ``[T]``; -1 for faces without UVs.

    Faces whose materials show the same image were laid out over one UV square by their author, so
    they share a set. Plain-coloured materials have no image to go by: each gets its own set, and
    no two layouts can collide.

    Args:
        face_material: ``[T]``.
        material_keys: what each material's image is known by; ``None`` if it has none.
        has_uvs: whether a face has finite UVs, ``[T]``.

    Convention:
        Sets are numbered in the order in which their first face appears.
    """
    square_of_material = np.arange(len(material_keys))
    first_with_key: dict[str, int] = {}
    for index, key in enumerate(material_keys):
        if key is not None:
            square_of_material[index] = first_with_key.setdefault(key, index)
    squares = square_of_material[face_material]
    sets = np.full(len(face_material), -1, dtype=np.int64)
    if has_uvs.any():
        _, first, inverse = np.unique(squares[has_uvs], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        sets[has_uvs] = rank[inverse.reshape(-1)]
    return sets
