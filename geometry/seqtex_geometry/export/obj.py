"""Textures written beside an OBJ file: the same OBJ text, a new MTL, and PNG images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..asset import MeshAsset
from ..load.obj import DEFAULT_MATERIAL, ObjFile
from ..load.obj_text import statements
from ..mesh import FloatArray, ImageArray
from .gltf_builder import texture_file_name
from .obj_library import BOM, new_library
from .textures import encode_png


@dataclass(frozen=True, kw_only=True)
class ObjNames:
    """Names of the files that an OBJ export writes.

    Args:
        main: the OBJ file.
        library: the MTL file.
        images: one PNG per texture set.
    """

    main: str
    library: str
    images: tuple[str, ...]


def obj_names(out: Path, count: int) -> ObjNames:
    """Names for an output; companions have no spaces, which many readers cannot handle."""
    stem = re.sub(r"\s+", "_", out.stem)
    return ObjNames(
        main=out.name,
        library=f"{stem}.mtl",
        images=tuple(texture_file_name(stem, number) for number in range(count)),
    )


def textured_obj(
    asset: MeshAsset, textures: Sequence[ImageArray], new_uvs: FloatArray | None, out: Path
) -> dict[str, bytes]:
    """The files of a textured OBJ, by name: images, library, what the library names, the OBJ.

    Only the ``mtllib`` statement changes, and ``usemtl`` is added where there was none. With
    ``new_uvs`` the ``vt`` lines are replaced and ``f`` lines rewritten; polygons that a chart
    border crosses are cut into their triangles. Colours in ``v`` lines that would tint the texture
    are left out. For the library see ``obj_library``.
    """
    document = asset.document
    assert isinstance(document, ObjFile)
    names = obj_names(out, len(textures))
    files = {
        name: encode_png(texture) for name, texture in zip(names.images, textures, strict=True)
    }
    library, copied = new_library(asset, document, names.images, new_uvs is not None)
    files |= copied
    files[names.library] = library
    lines = [bytearray(line) for line in document.text.lines]
    if tinting_colors(asset):
        _leave_out_colors(asset, document, lines, new_uvs is not None)
    if new_uvs is not None:
        _rewrite_faces(document, lines, new_uvs)
    _name_materials(document, lines, names.library)
    files[names.main] = b"".join(lines)
    return files


def tinting_colors(asset: MeshAsset) -> bool:
    """Whether the mesh has vertex colours other than white."""
    colors = asset.mesh.vertex_colors
    return colors is not None and bool((colors[:, :3] < 0.999).any())


def _leave_out_colors(
    asset: MeshAsset, document: ObjFile, lines: list[bytearray], made_uvs: bool
) -> None:
    """Take the colours from ``v`` lines, or make them white where faces stay that show theirs."""
    painted = made_uvs | (asset.mesh.face_texture_set >= 0)
    corners = document.text.corners[document.face_corners[painted], 0]
    shows_texture = np.zeros(len(document.text.positions), np.bool_)
    shows_texture[corners] = True
    white = b"" if painted.all() else b" 1 1 1"
    vertices = (item for item in statements(document.text.lines) if item[2][0] == b"v")
    for index, (first, last, words) in enumerate(vertices):
        if painted.all() or shows_texture[index]:
            lines[first][:] = b" ".join(words[:4]) + white + _line_end(document)
            for number in range(first + 1, last):
                lines[number][:] = b""


def _name_materials(document: ObjFile, lines: list[bytearray], library: str) -> None:
    """Point to the new library, and name the material of polygons that had none."""
    statement = b"mtllib " + library.encode()
    old = [number for number, _ in document.text.library_lines]
    for number in old:
        lines[number][:] = b""
    groups = document.text.groups
    if groups[0].material is None:
        first = int(document.text.polygon_lines[groups[0].first_polygon, 0])
        lines[first][:0] = b"usemtl " + DEFAULT_MATERIAL.encode() + _line_end(document)
    where = old[0] if old else _first_statement(document)
    if where == 0 and document.text.lines[0].startswith(BOM) and not old:
        lines[0][:3] = BOM + statement + _line_end(document)
    else:
        head = BOM if where == 0 and document.text.lines[0].startswith(BOM) else b""
        lines[where][:0] = head + statement + _line_end(document)


def _first_statement(document: ObjFile) -> int:
    for number, line in enumerate(document.text.lines):
        stripped = line.removeprefix(BOM).strip()
        if stripped and not stripped.startswith(b"#"):
            return number
    return 0


def _line_end(document: ObjFile) -> bytes:
    return b"\r\n" if document.text.lines[0].endswith(b"\r\n") else b"\n"


def _rewrite_faces(document: ObjFile, lines: list[bytearray], new_uvs: FloatArray) -> None:
    text, end = document.text, _line_end(document)
    values, uv_index = np.unique(new_uvs.reshape(-1, 2), axis=0, return_inverse=True)
    uv_of_corner = uv_index.reshape(-1, 3)
    cut = _cut_polygons(document, uv_of_corner)
    for number, line in enumerate(text.lines):
        words = line.split()
        if words and words[0] == b"vt":
            lines[number][:] = b""
        elif words and words[0] in (b"l", b"f") and b"/" in line:
            lines[number][:] = b" ".join([words[0], *map(_without_uv, words[1:])]) + end
    starts = np.searchsorted(document.face_polygon, np.arange(len(text.corner_counts) + 1))
    for polygon, (first, last) in enumerate(text.polygon_lines):
        rows = range(int(starts[polygon]), int(starts[polygon + 1]))
        written = bytearray()
        for corner_list in _corner_lists(document, uv_of_corner, rows, bool(cut[polygon])):
            written += b"f " + b" ".join(_corner(document, *pair) for pair in corner_list) + end
        lines[first][:] = written
        for number in range(first + 1, last):
            lines[number][:] = b""
    block = b"".join(f"vt {u:.9g} {v:.9g}".encode() + end for u, v in values.tolist())
    lines[int(text.polygon_lines[0, 0])][:0] = block


def _cut_polygons(document: ObjFile, uv_of_corner: np.ndarray) -> np.ndarray:
    """Whether a corner of a polygon has several UVs in its triangles, ``[P]``."""
    first = np.full(len(document.text.corners), -1)
    first[document.face_corners.ravel()[::-1]] = uv_of_corner.ravel()[::-1]
    differs = (first[document.face_corners] != uv_of_corner).any(axis=1)
    cut = np.zeros(len(document.text.corner_counts), np.bool_)
    cut[document.face_polygon[differs]] = True
    return cut


def _corner_lists(
    document: ObjFile, uv_of_corner: np.ndarray, rows: range, is_cut: bool
) -> list[list[tuple[int, int]]]:
    """Corner and UV index of every face to write for one polygon."""
    triangles = [
        list(zip(document.face_corners[row].tolist(), uv_of_corner[row].tolist(), strict=True))
        for row in rows
    ]
    if is_cut:
        return triangles
    pairs = dict(pair for triangle in triangles for pair in triangle)
    return [sorted(pairs.items())]


def _corner(document: ObjFile, corner: int, uv: int) -> bytes:
    position, _, normal = document.text.corners[corner].tolist()
    return f"{position + 1}/{uv + 1}{f'/{normal + 1}' if normal >= 0 else ''}".encode()


def _without_uv(word: bytes) -> bytes:
    fields = word.split(b"/")
    return fields[0] + b"//" + fields[2] if len(fields) == 3 and fields[2] else fields[0]
