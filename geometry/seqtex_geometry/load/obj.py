"""OBJ files, with their MTL materials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..mesh import FloatArray, IntArray, Material
from .images import srgb_to_linear
from .lookup import find_beside
from .mtl import MtlLibrary, MtlMaterial, read_mtl
from .obj_text import ObjText, parse_obj_text
from .parsed import ParsedFile, PrimitiveRef, rounded_positions
from .polygons import triangulate

DEFAULT_MATERIAL = "default"


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjFile:
    """An OBJ file as the writer needs it.

    Args:
        text: its statements.
        libraries: the MTL files that were found.
        face_polygon: polygon of each triangle, ``[T]``.
        face_corners: corners of each triangle as positions in ``text.corners``, ``[T, 3]``.
        polygon_material: index of the mesh's material for each polygon, ``[P]``.
    """

    text: ObjText
    libraries: tuple[MtlLibrary, ...]
    face_polygon: IntArray
    face_corners: IntArray
    polygon_material: IntArray


def read_obj(path: Path) -> ParsedFile:
    """An OBJ file.

    Raises:
        InputError: damaged text, or an index out of range.
    """
    source = path.read_bytes()
    text = parse_obj_text(path, source)
    libraries, notes = _find_libraries(path, text)
    materials, keys, names = _materials(text, libraries, notes)
    positions = rounded_positions(text.positions, text.corners[:, 0])
    face_polygon, face_corners = triangulate(text.corner_counts, text.corners[:, 0], positions)
    group_starts = [group.first_polygon for group in text.groups]
    polygon_group = (
        np.searchsorted(group_starts, np.arange(len(text.corner_counts)), side="right") - 1
    )
    group_material = np.array(
        [names[group.material or DEFAULT_MATERIAL] for group in text.groups], np.int64
    )
    polygon_material = group_material[polygon_group]
    corners = text.corners[face_corners]
    vertices, normals, faces, colors = _vertices(text, positions, corners)
    face_uvs = np.full((len(faces), 3, 2), np.nan, np.float32)
    has_uv = corners[..., 1] >= 0
    face_uvs[has_uv] = text.uvs[corners[..., 1][has_uv]]
    return ParsedFile(
        vertices=vertices,
        faces=faces,
        vertex_normals=normals,
        face_uvs=face_uvs,
        face_material=polygon_material[face_polygon],
        materials=materials,
        material_keys=keys,
        primitives=_refs(text, polygon_group[face_polygon], np.asarray(has_uv.all(axis=1))),
        vertex_colors=colors,
        source=source,
        resources={library.name: library.text for library in libraries},
        document=ObjFile(
            text=text,
            libraries=libraries,
            face_polygon=face_polygon,
            face_corners=face_corners,
            polygon_material=polygon_material,
        ),
        notes=(*text.notes, *notes),
    )


def _find_libraries(path: Path, text: ObjText) -> tuple[tuple[MtlLibrary, ...], list[str]]:
    libraries: list[MtlLibrary] = []
    notes: list[str] = []
    for _, value in text.library_lines:
        whole = find_beside(path.parent, value)
        for name in [value] if whole is not None else value.split():
            found = find_beside(path.parent, name)
            if found is None:
                notes.append(f"material library {name} is not there: materials are plain")
            elif name not in {library.name for library in libraries}:
                libraries.append(MtlLibrary(name=name, path=found, text=found.read_bytes()))
    return tuple(libraries), notes


def _materials(
    text: ObjText, libraries: tuple[MtlLibrary, ...], notes: list[str]
) -> tuple[tuple[Material, ...], tuple[str | None, ...], dict[str, int]]:
    used = list(dict.fromkeys(group.material or DEFAULT_MATERIAL for group in text.groups))
    found: dict[str, MtlMaterial] = {}
    for library in libraries:
        found = {**read_mtl(library, set(used)), **found}
    missing = [name for name in used if name not in found and name != DEFAULT_MATERIAL]
    if missing and libraries:
        notes.append("materials without an entry in the library: " + ", ".join(missing[:8]))
    entries = [
        found.get(name, MtlMaterial(material=Material(name=name), key=None)) for name in used
    ]
    return (
        tuple(entry.material for entry in entries),
        tuple(entry.key for entry in entries),
        {name: index for index, name in enumerate(used)},
    )


def _vertices(
    text: ObjText, positions: FloatArray, corners: IntArray
) -> tuple[FloatArray, FloatArray, IntArray, FloatArray | None]:
    """Vertices split where one position has several normals; otherwise the file's own."""
    if (corners[..., 2] >= 0).any():
        pairs, inverse = np.unique(corners[..., [0, 2]].reshape(-1, 2), axis=0, return_inverse=True)
        rows, normal_rows = pairs[:, 0], pairs[:, 1]
        faces = inverse.reshape(-1, 3).astype(np.int64)
    else:
        rows = np.arange(len(text.positions))
        normal_rows = np.full(len(rows), -1)
        faces = corners[..., 0]
    normals = np.full((len(rows), 3), np.nan, np.float32)
    has_normal = normal_rows >= 0
    normals[has_normal] = text.normals[normal_rows[has_normal]]
    colors = None
    if text.colors is not None:
        linear = srgb_to_linear(np.clip(text.colors, 0.0, 1.0))
        colors = np.concatenate([linear, np.ones((len(linear), 1))], axis=1)[rows]
        colors = colors.astype(np.float32)
    return positions[rows], normals, faces, colors


def _refs(text: ObjText, face_group: IntArray, has_uv: np.ndarray) -> tuple[PrimitiveRef, ...]:
    counts = np.bincount(face_group, minlength=len(text.groups))
    with_uv = np.bincount(face_group, weights=has_uv, minlength=len(text.groups))
    starts = np.cumsum(counts) - counts
    return tuple(
        PrimitiveRef(
            name=group.name or group.material or f"group {index}",
            part=group.part,
            first_face=int(starts[index]),
            num_faces=int(counts[index]),
            primitive=index,
            has_uvs=bool(with_uv[index] > 0),
        )
        for index, group in enumerate(text.groups)
    )
