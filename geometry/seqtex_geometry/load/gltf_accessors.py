"""glTF accessors as arrays: interleaved, normalised and sparse ones included."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from .gltf_file import GltfFile, JsonObject

COMPONENT_DTYPES: dict[int, np.dtype[Any]] = {
    5120: np.dtype("<i1"),
    5121: np.dtype("<u1"),
    5122: np.dtype("<i2"),
    5123: np.dtype("<u2"),
    5125: np.dtype("<u4"),
    5126: np.dtype("<f4"),
}
TYPE_SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_MAX_ELEMENTS = 1 << 26

AnyArray = npt.NDArray[Any]


def read_stored(file: GltfFile, index: object) -> AnyArray:
    """An accessor's elements in their stored type, sparse changes applied, ``[N, components]``.

    Raises:
        InputError: the accessor reaches past its bytes, or is described wrongly.
    """
    accessor = file.entry("accessors", index)
    subject = f"{file.path.name}: accessors[{index}]"
    try:
        dtype = COMPONENT_DTYPES[accessor["componentType"]]
        size = TYPE_SIZES[accessor["type"]]
        count = int(accessor["count"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            subject, expected="a component type, type and count", got=f"a bad field: {error}"
        ) from error
    if not 0 <= count <= _MAX_ELEMENTS:
        raise InputError(subject, expected=f"up to {_MAX_ELEMENTS} elements", got=str(count))
    if "bufferView" in accessor:
        offset = int(accessor.get("byteOffset", 0))
        stored = _read_view(file, accessor["bufferView"], offset, count, (dtype, size))
    else:
        stored = np.zeros((count, size), dtype)
    if "sparse" in accessor:
        _apply_sparse(file, accessor["sparse"], stored, subject)
    return stored


def read_floats(file: GltfFile, index: object) -> npt.NDArray[np.float32]:
    """An accessor's elements as numbers, integers normalised where it says so."""
    stored = read_stored(file, index)
    if stored.dtype.kind == "f" or not file.entry("accessors", index).get("normalized", False):
        return stored.astype(np.float32)
    limit = np.iinfo(stored.dtype).max
    values: npt.NDArray[np.float32] = np.maximum(stored.astype(np.float32) / limit, -1.0)
    return values


def _read_view(
    file: GltfFile, view_index: object, offset: int, count: int, layout: tuple[np.dtype[Any], int]
) -> AnyArray:
    dtype, size = layout
    data = file.view_bytes(view_index)
    element = dtype.itemsize * size
    stride = int(file.entry("bufferViews", view_index).get("byteStride", 0)) or element
    needed = offset + (stride * (count - 1) + element if count else 0)
    if offset < 0 or needed > len(data):
        raise InputError(
            f"{file.path.name}: bufferViews[{view_index}]",
            expected=f"at least {needed} bytes for {count} elements",
            got=f"{len(data)} bytes",
            remedy="The file is damaged or was cut off: export it again.",
        )
    view: AnyArray = np.ndarray(
        (count, size), dtype, buffer=data, offset=offset, strides=(stride, dtype.itemsize)
    )
    return view.copy()


def _apply_sparse(file: GltfFile, sparse: JsonObject, stored: AnyArray, subject: str) -> None:
    count = int(sparse["count"])
    where = sparse["indices"]
    rows = _read_view(
        file,
        where["bufferView"],
        int(where.get("byteOffset", 0)),
        count,
        (COMPONENT_DTYPES[where["componentType"]], 1),
    )[:, 0]
    values = _read_view(
        file,
        sparse["values"]["bufferView"],
        int(sparse["values"].get("byteOffset", 0)),
        count,
        (stored.dtype, stored.shape[1]),
    )
    if count and int(rows.max()) >= len(stored):
        raise InputError(
            f"{subject}.sparse", expected=f"rows below {len(stored)}", got=str(int(rows.max()))
        )
    stored[rows] = values
