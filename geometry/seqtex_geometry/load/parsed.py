"""What every reader returns: corners, faces, materials and where each face came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from ..mesh import FloatArray, IntArray, Material

BORDER_TOLERANCE = 1e-3
"""How far, in UV units, a face may reach over the border of the unit square by mere rounding."""


@dataclass(frozen=True, kw_only=True)
class PrimitiveRef:
    """Where a run of faces comes from in the file.

    Args:
        name: for messages: node or group name and material.
        part: of an OBJ: the object that the run belongs to, or the group; empty elsewhere.
        first_face: index of the run's first face in the mesh.
        num_faces: length of the run.
        node: glTF node index; ``None`` in other formats.
        mesh: glTF mesh index; ``None`` in other formats.
        primitive: glTF primitive index within the mesh, or the group's index.
        is_instance: the same primitive appeared earlier in the list.
        is_flipped: corners 1 and 2 were swapped, because the node mirrors the mesh.
        has_uvs: the primitive carries usable texture coordinates.
    """

    name: str
    first_face: int
    num_faces: int
    node: int | None = None
    mesh: int | None = None
    primitive: int = 0
    is_instance: bool = False
    is_flipped: bool = False
    has_uvs: bool = False
    part: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParsedFile:
    """A mesh file as read, before normals and texture sets are decided.

    Args:
        vertices: ``[V, 3]``, the file's axes, node transforms applied; see ``rounded_positions``.
        faces: ``[T, 3]``.
        vertex_normals: ``[V, 3]``; NaN rows where the file has none.
        face_uvs: ``[T, 3, 2]``, v up; NaN where a face has none.
        face_material: ``[T]``.
        materials: at least one.
        material_keys: for each material, what its base colour image is known by in the file
            (materials of equal key share one UV square); ``None`` if it has no image.
        primitives: one per ``face_primitive`` value, in order.
        vertex_colors: linear RGBA, ``[V, 4]``, or ``None``.
        source: bytes of the file itself.
        resources: bytes of the files it refers to, by the name it uses.
        document: the reader's own view of the file, which the writer needs.
        notes: sentences worth telling the user.
    """

    vertices: FloatArray
    faces: IntArray
    vertex_normals: FloatArray
    face_uvs: FloatArray
    face_material: IntArray
    materials: tuple[Material, ...]
    material_keys: tuple[str | None, ...]
    primitives: tuple[PrimitiveRef, ...]
    source: bytes
    vertex_colors: FloatArray | None = None
    resources: Mapping[str, bytes] = field(default_factory=dict)
    document: object = None
    notes: Sequence[str] = ()


def lies_far_out(positions: npt.NDArray[Any]) -> bool:
    """Whether single precision, with its 24 bits, would leave too few for the object itself."""
    if len(positions) == 0 or not np.isfinite(positions).all():
        return False
    farthest, extent = float(np.abs(positions).max()), float(np.ptp(positions, axis=0).max())
    return farthest * 2.0**-24 > 1e-4 * extent


def rounded_positions(positions: npt.NDArray[np.float64], used: IntArray) -> FloatArray:
    """Positions in single precision, or in double where they lie far from the origin, ``[V, 3]``.

    Maps and scans are often placed by their coordinates on Earth: millions of metres away, where
    single precision has steps of half a metre.

    Args:
        positions: ``[V, 3]``.
        used: the vertices that faces show, of any shape; a stray one elsewhere does not count.
    """
    is_used = np.zeros(len(positions), np.bool_)
    is_used[used] = True
    if lies_far_out(positions[is_used]):
        return cast(FloatArray, positions)
    with np.errstate(over="ignore"):  # infinities are refused by the caller
        return positions.astype(np.float32)


def check_mesh_arrays(subject: str, vertices: FloatArray, faces: IntArray) -> None:
    """Refuse geometry that nothing can be made of.

    Raises:
        InputError: no faces, a position that is not finite, an index out of range.
    """
    if len(faces) == 0:
        raise InputError(
            subject,
            expected="a mesh with faces",
            got=f"no faces ({len(vertices)} vertices)",
            remedy="Points and lines cannot be textured: export triangles.",
        )
    outside = (faces < 0) | (faces >= len(vertices))
    if outside.any():
        face, corner = (int(i) for i in np.argwhere(outside)[0])
        raise InputError(
            subject,
            expected=f"vertex indices from 0 to {len(vertices) - 1}",
            got=f"index {int(faces[face, corner])} in face {face}",
            remedy="The file is damaged: export it again.",
        )
    bad = ~np.isfinite(vertices).all(axis=1)
    bad &= np.isin(np.arange(len(vertices)), faces) if bad.any() else True
    if bad.any():
        raise InputError(
            subject,
            expected="finite vertex positions",
            got=f"{int(bad.sum())} vertices with NaN or infinity, first: {int(bad.argmax())}",
            remedy="Remove those vertices, or export the mesh again.",
        )


def count_degenerate(vertices: FloatArray, faces: IntArray) -> int:
    """Number of faces without area."""
    corners = vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return int((~np.any(normals != 0.0, axis=1)).sum())
