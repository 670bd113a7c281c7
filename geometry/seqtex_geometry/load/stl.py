"""STL files, binary and ASCII."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from seqtex_core.errors import InputError

from ..mesh import FloatArray, Material
from ..normals import merged_positions
from .parsed import ParsedFile, PrimitiveRef

_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
# What follows "solid" may be any words, "vertex" too; it ends with the line or the first facet.
_NAMES = re.compile(rb"\b(?:end)?solid\b.*?(?=\bfacet\s+normal\b|$)", re.MULTILINE)


def read_stl(path: Path) -> ParsedFile:
    """An STL file; corners at identical positions become one vertex.

    STL stores a normal per face only; smooth vertex normals are computed instead.

    Raises:
        InputError: cut off, or neither binary nor ASCII STL.
    """
    source = path.read_bytes()
    corners = _read_ascii(path, source) if _is_ascii(source) else _read_binary(path, source)
    flat = np.ascontiguousarray(corners.reshape(-1, 3))
    point_of_corner, first_corner = merged_positions(flat)
    order = np.argsort(np.argsort(first_corner))  # vertices in the order of the file
    faces = order[point_of_corner].reshape(-1, 3)
    vertices = flat[np.sort(first_corner)]
    return ParsedFile(
        vertices=vertices,
        faces=faces,
        vertex_normals=np.full(vertices.shape, np.nan, np.float32),
        face_uvs=np.full((len(faces), 3, 2), np.nan, np.float32),
        face_material=np.zeros(len(faces), np.int64),
        materials=(Material(name="default"),),
        material_keys=(None,),
        primitives=(PrimitiveRef(name=path.stem, first_face=0, num_faces=len(faces)),),
        source=source,
    )


def _is_ascii(source: bytes) -> bool:
    if len(source) >= 84 and len(source) == 84 + 50 * struct.unpack_from("<I", source, 80)[0]:
        return False
    return source[:4096].lstrip().lower().startswith(b"solid") and b"\x00" not in source[:4096]


def _read_binary(path: Path, source: bytes) -> FloatArray:
    declared = struct.unpack_from("<I", source, 80)[0] if len(source) >= 84 else 0
    if len(source) < 84 + 50 * declared:
        raise InputError(
            str(path),
            expected=f"{84 + 50 * declared} bytes for {declared} faces",
            got=f"{len(source)} bytes",
            remedy="The file is damaged or was cut off: copy or export it again.",
        )
    records = np.frombuffer(source, _RECORD, count=declared, offset=84) if declared else None
    if records is None:
        return np.zeros((0, 3, 3), np.float32)
    return np.ascontiguousarray(records["corners"], dtype=np.float32)


def _read_ascii(path: Path, source: bytes) -> FloatArray:
    words = _NAMES.sub(b"", source.lower()).split()
    starts = [index for index, word in enumerate(words) if word == b"vertex"]
    try:
        flat = [word for index in starts for word in words[index + 1 : index + 4]]
        corners = np.array(flat).astype(np.float32) if flat else np.zeros(0, np.float32)
        return corners.reshape(-1, 3, 3)
    except ValueError as error:
        raise InputError(
            str(path),
            expected="three `vertex x y z` lines per facet",
            got=str(error),
            remedy="The file is damaged or was cut off: export it again.",
        ) from error
