"""A real mesh made ready for sampling: normalised, with charts that do not overlap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import InputError
from seqtex_geometry.asset import load_asset
from seqtex_geometry.charts import unwrap
from seqtex_geometry.interpolate import triangle_areas
from seqtex_geometry.mesh import FloatArray, Mesh
from seqtex_geometry.rasterize import Rasterizer
from seqtex_geometry.surface import SurfaceTensors
from seqtex_geometry.working_copy import Normalization, normalize

from .object_mesh import is_mirrored
from .survey import SurfaceFacts, texel_fragments

ChartMode = Literal["auto", "author", "new"]
ChartSource = Literal["author", "new", "none"]
_CHECK_SIZE = 512
_MAX_OVERLAP = 0.03
_MIN_COVER = 0.1
_MAX_BARE = 0.02
_MAX_MIRROR_VERTICES = 200_000


@dataclass(frozen=True, kw_only=True)
class ChartOptions:
    """Whose UVs an object is laid out in.

    Args:
        mode: ``auto`` keeps the author's UVs where every texel belongs to one place of the surface
            and makes new ones otherwise; ``author`` makes none; ``new`` makes them always.
        seconds: unwrapping is given up after this time.
    """

    mode: ChartMode = "auto"
    seconds: float = 120.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RealMesh:
    """A mesh file, ready to be sampled.

    Args:
        mesh: the working copy, with the UVs that its materials are laid out in.
        normalization: file positions to working ones.
        layout: UVs of the texture to learn, ``[T, 3, 2]``, or ``None``.
        layout_faces: faces that give texels their position, boolean ``[T]``.
        charts: whose UVs ``layout`` is.
        notes: sentences for the report.
    """

    mesh: Mesh
    normalization: Normalization
    layout: FloatArray | None
    layout_faces: Tensor
    charts: ChartSource
    notes: tuple[str, ...]

    def surface(self) -> SurfaceTensors:
        """The surface with the layout's UVs."""
        return SurfaceTensors.from_mesh(replace(self.mesh, face_uvs=self.layout))

    def facts(self) -> SurfaceFacts:
        """What textures may know: materials as parts, symmetry in x."""
        _, part = np.unique(self.mesh.face_material, return_inverse=True)
        few = len(self.mesh.vertices) <= _MAX_MIRROR_VERTICES
        return SurfaceFacts(
            face_part=torch.from_numpy(np.minimum(part.reshape(-1), 255)),
            frame=torch.eye(3, 4),
            symmetric=few and is_mirrored(self.mesh.vertices.astype(np.float64)),
            texture_faces=self.layout_faces,
        )


def read_real_mesh(
    path: Path,
    *,
    charts: ChartOptions,
    rasterizer: Rasterizer,
    max_faces: int,
    up: str | None = None,
    front: str | None = None,
) -> RealMesh:
    """Load a mesh file and choose its charts.

    Args:
        path: of the file.
        charts: whose UVs to use.
        rasterizer: a backend for the CPU.
        max_faces: larger meshes are refused.
        up: axis that points up; the format's convention if not named.
        front: axis that the object faces, likewise.

    Raises:
        InputError: the file is rejected, or has too many faces.
    """
    asset = load_asset(path, up=up, front=front)
    if len(asset.mesh.faces) > max_faces:
        raise InputError("faces", expected=f"at most {max_faces}", got=str(len(asset.mesh.faces)))
    mesh, normalization = normalize(asset.mesh, asset.axes)
    mesh = _compact(mesh)
    layout, source, notes = mesh.face_uvs, "author", list(asset.notes)
    problem = "new ones were asked for" if charts.mode == "new" else None
    problem = problem or author_problem(mesh, rasterizer)
    if problem is not None:
        notes.append(f"the author's UVs are not used: {problem}")
        layout, source = None, "none"
        if charts.mode != "author":
            try:
                layout, source = unwrap(mesh, timeout_s=charts.seconds).face_uvs, "new"
            except InputError as error:
                notes.append(f"no new UVs: {error.got}")
    faces = np.ones(len(mesh.faces), dtype=np.bool_)
    if source == "author":
        faces = mesh.face_texture_set == 0
    return RealMesh(
        mesh=mesh,
        normalization=normalization,
        layout=layout,
        layout_faces=torch.from_numpy(faces),
        charts=source,  # type: ignore[arg-type]
        notes=tuple(notes),
    )


def author_problem(mesh: Mesh, rasterizer: Rasterizer) -> str | None:
    """Why the author's UVs cannot be the layout of one texture, or ``None``."""
    if mesh.face_uvs is None:
        return "there are none"
    if mesh.num_texture_sets > 1:
        return f"they belong to {mesh.num_texture_sets} textures"
    charted = (mesh.face_texture_set == 0) & np.isfinite(mesh.face_uvs).all(axis=(1, 2))
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    bare = 1.0 - float(area[charted].sum()) / max(float(area.sum()), 1e-12)
    if bare > _MAX_BARE:
        return f"{bare:.0%} of the surface has none"
    surface, faces = SurfaceTensors.from_mesh(mesh), torch.from_numpy(charted)
    assert surface.face_uvs is not None, "checked above"
    try:
        texels = texel_fragments(surface, _CHECK_SIZE, rasterizer, faces)
    except InputError as error:
        return f"{error.subject}: {error.got} repeats of the texture"
    assert texels is not None, "the surface has UVs"
    covered = len(texels.pixel) / _CHECK_SIZE**2
    laid_out = float(triangle_areas(surface.face_uvs[faces].double()).sum())
    if covered < _MIN_COVER:
        return f"they cover {covered:.0%} of the texture"
    if laid_out > covered * (1 + _MAX_OVERLAP) + 0.004:
        return f"{1 - covered / laid_out:.0%} of their area lies over other charts"
    return None


def _compact(mesh: Mesh) -> Mesh:
    """The mesh without vertices that no face uses; normals that are not finite become 0.

    Further instances are faces like any other here: every place of the surface is to have texels of
    its own.
    """
    used, faces = np.unique(mesh.faces, return_inverse=True)
    colors = mesh.vertex_colors
    normals = mesh.vertex_normals[used]
    bad = np.asarray(~np.isfinite(normals).all(axis=1))
    return replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=faces.reshape(-1, 3).astype(np.int64),
        vertex_normals=np.where(bad[:, None], np.float32(0.0), normals).astype(np.float32),
        vertex_colors=None if colors is None else colors[used],
        corner_source=None,
    )
