"""From a procedural mesh to its record: rasterized with the library's own cameras and maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.interpolate import Fragments, intersect_planes, uv_fragments, view_fragments
from seqtex_geometry.rasterize import Rasterizer
from seqtex_geometry.surface import SurfaceTensors

from .object_mesh import ObjectMesh
from .record import (
    NORMAL_STEP,
    POSITION_STEP,
    GeometryRecord,
    RecordSizes,
    encoded_footprint,
    packed,
)

NUM_ANCHORS = 24
_MIN_FACING = 0.1
_TOLERANCE = 0.02


def surveyed(
    mesh: ObjectMesh, sizes: RecordSizes, *, rasterizer: Rasterizer, rng: np.random.Generator
) -> GeometryRecord:
    """The record of an object.

    Args:
        mesh: the object, normalised.
        sizes: how finely to sample.
        rasterizer: a backend for the CPU.
        rng: picks the anchors.
    """
    surface = SurfaceTensors(
        vertices=torch.from_numpy(mesh.vertices),
        faces=torch.from_numpy(mesh.faces),
        vertex_normals=torch.from_numpy(mesh.vertex_normals),
        face_uvs=torch.from_numpy(mesh.face_uvs),
    )
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    fine, part = sizes.fine_size, torch.from_numpy(mesh.face_part).to(torch.uint8)
    face_idx = rasterizer.face_idx_views(surface, cameras, height=fine, width=fine)
    views = view_fragments(face_idx, surface, cameras)
    uv_idx = rasterizer.face_idx_uv(mesh_uvs(surface), height=sizes.uv_size, width=sizes.uv_size)
    texels = uv_fragments(uv_idx, mesh_uvs(surface))
    position = texels.interpolate(surface.vertices, surface.faces)
    normal = texels.interpolate(surface.vertex_normals, surface.faces)
    visible = texels_seen(surface, cameras, face_idx, position, texels.face)
    bits = (visible.to(torch.uint8) << torch.arange(len(cameras), dtype=torch.uint8)[:, None]).sum(
        0
    )
    frame = torch.from_numpy(mesh.frame)
    own = surface.vertices @ frame[:, :3].T + frame[:, 3]
    picks = torch.from_numpy(rng.integers(max(len(position), 1), size=NUM_ANCHORS))
    return GeometryRecord(
        view_cover=packed(face_idx >= 0),
        view_position=_steps(views.interpolate(surface.vertices, surface.faces), POSITION_STEP),
        view_normal=_steps(_view_normals(views, surface), NORMAL_STEP, torch.int8),
        view_part=part[views.face],
        uv_cover=packed(uv_idx >= 0),
        uv_position=_steps(position, POSITION_STEP),
        uv_normal=_steps(normal, NORMAL_STEP, torch.int8),
        uv_part=part[texels.face],
        uv_visible=bits.to(torch.uint8),
        uv_footprint=encoded_footprint(_texel_size(surface, sizes.uv_size)[texels.face]),
        frame=frame,
        box=torch.stack([own.amin(0), own.amax(0)]),
        eyes=cameras.centers(),
        anchor_position=position[picks] @ frame[:, :3].T + frame[:, 3],
        anchor_normal=torch.nn.functional.normalize(normal[picks] @ frame[:, :3].T, dim=-1),
        scalars=torch.tensor([float(part.max()) + 1.0, float(mesh.symmetric), surface.diagonal]),
    )


def mesh_uvs(surface: SurfaceTensors) -> Tensor:
    """The UVs of a surface that has them."""
    assert surface.face_uvs is not None, "procedural meshes have UVs"
    return surface.face_uvs


def texels_seen(
    surface: SurfaceTensors, cameras: CameraRig, face_idx: Tensor, position: Tensor, face: Tensor
) -> Tensor:
    """Which texels each camera sees, ``[F, M]`` bool.

    A texel is seen if, along its own line of sight, the plane of the face that the nearest pixel
    shows is not clearly in front of it, and if it is not seen edge-on.

    Args:
        surface: the object.
        cameras: F cameras.
        face_idx: what they see, ``[F, H, W]``, square.
        position: of the texels, ``[M, 3]``.
        face: of the texels, ``[M]``.
    """
    size = face_idx.shape[-1]
    pixels, _ = cameras.project_to_pixels(position, size, size)
    corners = surface.corners()
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.nn.functional.normalize(cross, dim=-1)
    seen = []
    for camera, center in enumerate(cameras.centers()):
        column, row = pixels[camera].long().clamp(0, size - 1).unbind(-1)
        front = face_idx[camera, row, column]
        sight = position - center
        along, _ = intersect_planes(corners[front.clamp(min=0)], center.expand_as(sight), sight)
        distance = torch.linalg.vector_norm(sight, dim=-1)
        gap = (1.0 - along) * distance
        hidden = (gap > _TOLERANCE) & (front != face)
        facing = (sight * normals[face]).sum(-1).abs() / distance
        seen.append((front >= 0) & ~hidden & (facing > _MIN_FACING))
    return torch.stack(seen)


def _view_normals(views: Fragments, surface: SurfaceTensors) -> Tensor:
    return views.interpolate(surface.vertex_normals, surface.faces)


def _texel_size(surface: SurfaceTensors, uv_size: int) -> Tensor:
    """Side of the square in the world that a texel of each face covers, ``[T]``."""
    corners, uvs = surface.corners(), mesh_uvs(surface)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    c, d = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    uv_area = (c[:, 0] * d[:, 1] - c[:, 1] * d[:, 0]).abs() * uv_size**2
    size: Tensor = (area / uv_area.clamp(min=1e-9)).sqrt()
    return size


def _steps(values: Tensor, step: float, dtype: torch.dtype = torch.int16) -> Tensor:
    limit = 1.0 / step
    return (values / step).round().clamp(-limit, limit).to(dtype)
