"""PLY files as a mesh."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from ..mesh import FloatArray, IntArray, Material
from .images import image_beside, srgb_to_linear
from .parsed import ParsedFile, PrimitiveRef, rounded_positions
from .ply_file import PlyList, PlyTable, read_ply_tables
from .polygons import triangulate

_UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
_COLOR_NAMES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green",
                                                            "diffuse_blue"))  # fmt: skip


def read_ply(path: Path) -> ParsedFile:
    """A PLY file: triangles, polygons or strips; colours, normals and UVs where it has them.

    Raises:
        InputError: cut off, or malformed.
    """
    source = path.read_bytes()
    tables, comments = read_ply_tables(path, source)
    vertex = tables.get("vertex", {})
    if not all(isinstance(vertex.get(axis), np.ndarray) for axis in "xyz"):
        raise InputError(
            str(path),
            expected="vertices with x, y and z",
            got="a file without them",
            remedy="Export the mesh again.",
        )
    positions = _columns(vertex, ("x", "y", "z"))
    faces, corner_uvs = _faces(path, tables, positions)
    vertices = rounded_positions(positions, faces)
    uv_names = next((pair for pair in _UV_NAMES if pair[0] in vertex and pair[1] in vertex), None)
    if corner_uvs is None and uv_names is not None and len(faces):
        corner_uvs = _columns(vertex, uv_names).astype(np.float32)[faces]
    if corner_uvs is None:
        corner_uvs = np.full((len(faces), 3, 2), np.nan, np.float32)
    normals = np.full(vertices.shape, np.nan, np.float32)
    if all(name in vertex for name in ("nx", "ny", "nz")):
        normals = _columns(vertex, ("nx", "ny", "nz")).astype(np.float32)
    material, key, notes = _material(path, comments)
    has_uvs = bool(np.isfinite(corner_uvs).any())
    ref = PrimitiveRef(name=path.stem, first_face=0, num_faces=len(faces), has_uvs=has_uvs)
    return ParsedFile(
        vertices=vertices,
        faces=faces,
        vertex_normals=normals,
        face_uvs=corner_uvs,
        face_material=np.zeros(len(faces), np.int64),
        materials=(material,),
        material_keys=(key,),
        primitives=(ref,),
        vertex_colors=_colors(vertex),
        source=source,
        notes=notes,
    )


def _columns(table: PlyTable, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.stack([np.asarray(table[name], dtype=np.float64) for name in names], axis=1)


def _faces(
    path: Path, tables: dict[str, PlyTable], vertices: npt.NDArray[np.float64]
) -> tuple[IntArray, FloatArray | None]:
    face = tables.get("face", {})
    lists = face.get("vertex_indices", face.get("vertex_index"))
    if not isinstance(lists, PlyList):
        strips = tables.get("tristrips", {}).get("vertex_indices")
        if isinstance(strips, PlyList):
            return _in_range(path, _unroll_strips(strips), len(vertices)), None
        return np.zeros((0, 3), np.int64), None
    indices = _in_range(path, lists.values.astype(np.int64), len(vertices))
    rows = np.flatnonzero(lists.counts >= 3)
    counts = lists.counts[rows]
    kept = np.repeat(lists.counts >= 3, lists.counts)
    face_polygon, corners = triangulate(counts, indices[kept], vertices)
    faces = indices[kept][corners]
    wedge = face.get("texcoord")
    if not isinstance(wedge, PlyList):
        return faces, None
    uvs = np.full((len(faces), 3, 2), np.nan, np.float32)
    uv_starts = np.cumsum(wedge.counts) - wedge.counts
    polygon = rows[face_polygon]
    first_kept = np.cumsum(counts) - counts
    corner_number = corners - first_kept[face_polygon][:, None]
    has = wedge.counts[polygon] == 2 * lists.counts[polygon]
    at = uv_starts[polygon][:, None] + 2 * corner_number
    uvs[has] = np.stack([wedge.values[at[has]], wedge.values[at[has] + 1]], axis=-1)
    return faces, uvs


def _in_range(path: Path, indices: IntArray, count: int) -> IntArray:
    outside = (indices < 0) | (indices >= count)
    if outside.any():
        raise InputError(
            str(path),
            expected=f"vertex indices from 0 to {count - 1}",
            got=f"index {int(indices[outside][0])}",
            remedy="The file is damaged: export it again.",
        )
    return indices


def _unroll_strips(strips: PlyList) -> IntArray:
    """Triangles of strips in which -1 starts a new one, as range scans are stored."""
    faces: list[tuple[int, int, int]] = []
    run: list[int] = []
    ends = set(np.cumsum(strips.counts).tolist())
    for position, value in enumerate(strips.values.astype(np.int64).tolist()):
        if position in ends or value < 0:
            run = []
        if value < 0:
            continue
        run.append(value)
        if len(run) >= 3:
            a, b, c = run[-3:]
            faces.append((a, b, c) if len(run) % 2 else (b, a, c))
    return np.array(faces, np.int64).reshape(-1, 3)


def _colors(vertex: PlyTable) -> FloatArray | None:
    names = next((trio for trio in _COLOR_NAMES if all(n in vertex for n in trio)), None)
    if names is None:
        return None
    alpha = np.asarray(vertex["alpha"]) if "alpha" in vertex else None
    columns = _columns(vertex, names)
    integer = np.asarray(vertex[names[0]]).dtype.kind in "iu" or columns.max(initial=0.0) > 1.0
    scale = 255.0 if integer else 1.0
    colors = np.ones((len(columns), 4))
    colors[:, :3] = srgb_to_linear(np.clip(columns / scale, 0.0, 1.0))
    if alpha is not None:
        colors[:, 3] = np.clip(alpha / scale, 0.0, 1.0)
    return colors.astype(np.float32)


def _material(path: Path, comments: list[str]) -> tuple[Material, str | None, list[str]]:
    """The image named by a ``comment TextureFile`` line, as MeshLab writes it."""
    names = [line.split(None, 1)[1] for line in comments if line.startswith("TextureFile ")]
    if not names:
        return Material(name="default"), None, []
    notes = [f"{len(names)} textures: only the first is read"] if len(names) > 1 else []
    label = f"{names[0]} of {path.name}"
    try:
        image, data = image_beside(path.parent, names[0], label)
    except InputError as error:
        return Material(name="default", image_error=error), f"file {names[0]}", notes
    return (
        Material(name="default", base_color_image=image),
        hashlib.sha256(data).hexdigest(),
        notes,
    )
