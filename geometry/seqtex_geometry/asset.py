"""A mesh file: its untouched bytes, and the mesh that was read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from seqtex_core.errors import InputError

from .axes import Axes, choose_axes
from .load.parsed import (
    ParsedFile,
    PrimitiveRef,
    check_mesh_arrays,
    count_degenerate,
    lies_far_out,
)
from .mesh import FloatArray, IntArray, Material, Mesh
from .normals import complete_normals
from .texture_sets import assign_texture_sets

_GLB_START = b"glTF"

BadImages = Literal["refuse", "tell"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshAsset:
    """A mesh file and what was read from it.

    Args:
        path: where it was read from.
        format: "glb", "gltf", "obj", "ply" or "stl".
        axes: which way is up and front, and who says so.
        mesh: positions in the file's own axes, node transforms applied; one entry of
            ``primitives`` per value of ``face_primitive``.
        primitives: where each run of faces comes from in the file.
        source: bytes of the file, untouched.
        resources: bytes of the files it refers to, by the name that it uses.
        document: the reader's view of the file, for the writer.
        notes: sentences worth telling the user.
    """

    path: Path
    format: str
    axes: Axes
    mesh: Mesh
    primitives: tuple[PrimitiveRef, ...]
    source: bytes
    resources: Mapping[str, bytes]
    document: object
    notes: tuple[str, ...]

    @property
    def has_uvs(self) -> bool:
        """Whether the author's UVs can be kept; if not, the mesh must be unwrapped."""
        return self.mesh.face_uvs is not None


def load_asset(
    path: str | Path,
    *,
    up: str | None = None,
    front: str | None = None,
    bad_images: BadImages = "refuse",
) -> MeshAsset:
    """A GLB, glTF, OBJ, PLY or STL file, checked and in memory.

    Args:
        path: the file; its ending names the format.
        up: axis that points up ("y", "-z" ...). Optional; y if not named.
        front: axis that the object faces. Optional; +z for y up, -y for z up.
        bad_images: ``refuse`` a file whose base colour images are not there or cannot be read; or
            ``tell`` of them in the notes, where new textures take their place.

    Raises:
        InputError: the file is missing, damaged, of unknown format, has no faces with an area, has
            positions that are not finite, or base colour images that are not there or not readable.
        UsageError: ``up`` or ``front`` is not an axis, or both lie on one line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            str(path),
            expected="a mesh file",
            got="a folder" if path.is_dir() else "nothing at this path",
            remedy="Check the path.",
        )
    file_format = path.suffix.lower().lstrip(".")
    axes = choose_axes(file_format, up, front)
    try:
        parsed = _reader(path, file_format)(path)
    except OSError as error:
        raise InputError(
            str(error.filename or path),
            expected="a file that can be read",
            got=error.strerror or str(error),
            remedy="Check its permissions.",
        ) from error
    check_mesh_arrays(str(path), parsed.vertices, parsed.faces)
    if bad_images == "refuse":
        _refuse_images(parsed)
    degenerate = count_degenerate(parsed.vertices, parsed.faces)
    if degenerate == len(parsed.faces):
        raise InputError(
            str(path),
            expected="faces with an area",
            got=f"none among {degenerate}: their corners lie on lines or points",
            remedy="Check the scale of the object (a 0 in it?), and export it again.",
        )
    mesh, notes = _build_mesh(parsed, degenerate)
    return MeshAsset(
        path=path,
        format=file_format,
        axes=axes,
        mesh=mesh,
        primitives=parsed.primitives,
        source=parsed.source,
        resources=parsed.resources,
        document=parsed.document,
        notes=(*parsed.notes, *notes),
    )


def _refuse_images(parsed: ParsedFile) -> None:
    for material in parsed.materials:
        if material.image_error is not None:
            raise material.image_error


def _reader(path: Path, file_format: str) -> Callable[[Path], ParsedFile]:
    if file_format in ("glb", "gltf"):
        from .load.gltf import read_gltf

        if file_format == "glb" and path.open("rb").read(4) != _GLB_START:
            raise InputError(
                str(path),
                expected="a GLB, which starts with `glTF`",
                got="other content",
                remedy="The file is damaged, or its ending is wrong.",
            )
        return read_gltf
    if file_format == "obj":
        from .load.obj import read_obj

        return read_obj
    if file_format == "ply":
        from .load.ply import read_ply

        return read_ply
    if file_format == "stl":
        from .load.stl import read_stl

        return read_stl
    raise InputError(
        str(path),
        expected="a .glb, .gltf, .obj, .ply or .stl file",
        got=repr(path.suffix),
        remedy="Convert the mesh to GLB.",
    )


def _build_mesh(parsed: ParsedFile, degenerate: int) -> tuple[Mesh, list[str]]:
    face_uvs = parsed.face_uvs
    has_uvs = np.asarray(np.isfinite(face_uvs).all(axis=(1, 2)))
    if not has_uvs.all():
        face_uvs = np.where(has_uvs[:, None, None], face_uvs, np.float32(np.nan))
    lengths = [ref.num_faces for ref in parsed.primitives]
    mesh = Mesh(
        vertices=parsed.vertices,
        faces=parsed.faces,
        vertex_normals=complete_normals(parsed.vertex_normals, parsed.vertices, parsed.faces),
        face_uvs=face_uvs if has_uvs.any() else None,
        face_material=parsed.face_material,
        materials=parsed.materials,
        face_primitive=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
        face_texture_set=assign_texture_sets(
            parsed.face_material,
            parsed.material_keys,
            face_uvs,
            face_areas=_areas(parsed),
            mergeable=[_is_opaque(material) for material in parsed.materials],
        ),
        vertex_colors=parsed.vertex_colors,
        corner_source=_corner_source(parsed),
    )
    return mesh, _mesh_notes(parsed, mesh, has_uvs, degenerate)


def _areas(parsed: ParsedFile) -> FloatArray:
    corners = parsed.vertices[parsed.faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas: FloatArray = np.linalg.norm(cross, axis=1).astype(np.float32)
    return areas


def _is_opaque(material: Material) -> bool:
    """Whether its image has no alpha, which its new texture would take over."""
    image = material.base_color_image
    return image is None or bool((image[..., 3] == 255).all())


def _corner_source(parsed: ParsedFile) -> IntArray | None:
    """For each corner the one whose UV it repeats; ``None`` if the file has no instances."""
    if not any(ref.is_instance for ref in parsed.primitives):
        return None
    source = np.arange(3 * len(parsed.faces), dtype=np.int64).reshape(-1, 3)
    first: dict[tuple[int | None, int], PrimitiveRef] = {}
    for ref in parsed.primitives:
        origin = first.setdefault((ref.mesh, ref.primitive), ref)
        rows = source[origin.first_face : origin.first_face + ref.num_faces]
        if ref is not origin:
            same_order = ref.is_flipped == origin.is_flipped
            source[ref.first_face : ref.first_face + ref.num_faces] = (
                rows if same_order else rows[:, [0, 2, 1]]
            )
    return source


def _mesh_notes(parsed: ParsedFile, mesh: Mesh, has_uvs: np.ndarray, degenerate: int) -> list[str]:
    notes = []
    for material in parsed.materials:
        if material.image_error is not None:
            problem = material.image_error
            notes.append(f"{problem.subject}: {problem.got}; it is taken as plain and opaque")
    if mesh.face_uvs is None:
        notes.append("no UVs: the mesh has to be unwrapped")
    elif not has_uvs.all():
        without = np.unique(mesh.face_primitive[~has_uvs])
        names = ", ".join(parsed.primitives[index].name for index in without[:8])
        more = f" and {len(without) - 8} more" if len(without) > 8 else ""
        notes.append(
            f"{int((~has_uvs).sum())} faces have no UVs; without --unwrap they stay as they are: "
            f"{names}{more}"
        )
    instances = sum(ref.is_instance for ref in parsed.primitives)
    if instances:
        notes.append(f"{instances} parts repeat another part and share its texels")
    if lies_far_out(parsed.vertices[parsed.faces].reshape(-1, 3)):
        notes.append("positions lie far from the origin; many programs will blur them")
    if degenerate:
        notes.append(f"{degenerate} faces have no area; they are kept")
    if mesh.vertex_colors is not None and (mesh.vertex_colors[:, :3] < 0.999).any():
        notes.append("vertex colours are present")
    return notes
