"""From a surface to its record: rasterized with the library's own cameras and maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.interpolate import Fragments, intersect_planes, uv_fragments, view_fragments
from seqtex_geometry.maps import wrapped_uvs
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


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceFacts:
    """What a surface's triangles do not tell.

    Args:
        face_part: material group of each face, ``[T]`` in 0..255.
        frame: world to object frame, ``[3, 4]``: the object's own upright, mirror-symmetric pose.
        symmetric: whether the object frame's plane x = 0 is a mirror of the shape.
        texture_faces: faces that give texels their position, boolean ``[T]``; ``None``: all.
    """

    face_part: Tensor
    frame: Tensor
    symmetric: bool
    texture_faces: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """A record, and where on the surface its samples lie.

    Args:
        record: of the object.
        cameras: of the views.
        views: N samples of the views.
        texels: M texels; ``None`` for a surface without UVs.
    """

    record: GeometryRecord
    cameras: CameraRig
    views: Fragments
    texels: Fragments | None


def surveyed(
    mesh: ObjectMesh, sizes: RecordSizes, *, rasterizer: Rasterizer, rng: np.random.Generator
) -> GeometryRecord:
    """The record of a procedural object.

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
    facts = SurfaceFacts(
        face_part=torch.from_numpy(mesh.face_part),
        frame=torch.from_numpy(mesh.frame),
        symmetric=mesh.symmetric,
    )
    return survey(surface, facts, sizes, rasterizer=rasterizer, rng=rng).record


def survey(
    surface: SurfaceTensors,
    facts: SurfaceFacts,
    sizes: RecordSizes,
    *,
    rasterizer: Rasterizer,
    rng: np.random.Generator,
) -> Survey:
    """Sample a surface in its four views and, where it has UVs, in its texture.

    Args:
        surface: normalised; without UVs the record has no texels.
        facts: what else textures may know.
        sizes: how finely to sample.
        rasterizer: a backend for the CPU.
        rng: picks the anchors.
    """
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    fine, part = sizes.fine_size, facts.face_part.to(torch.uint8)
    face_idx = rasterizer.face_idx_views(surface, cameras, height=fine, width=fine)
    views = view_fragments(face_idx, surface, cameras)
    view_position = views.interpolate(surface.vertices, surface.faces)
    view_normal = views.interpolate(surface.vertex_normals, surface.faces)
    texels = texel_fragments(surface, sizes.uv_size, rasterizer, facts.texture_faces)
    chart = texels or _no_fragments(views)
    position = chart.interpolate(surface.vertices, surface.faces)
    normal = chart.interpolate(surface.vertex_normals, surface.faces)
    visible = texels_seen(surface, cameras, face_idx, position, chart.face)
    bits = (visible.to(torch.uint8) << torch.arange(len(cameras), dtype=torch.uint8)[:, None]).sum(
        0
    )
    frame = facts.frame
    own = surface.vertices @ frame[:, :3].T + frame[:, 3]
    spread, facing = (view_position, view_normal) if texels is None else (position, normal)
    picks = torch.from_numpy(rng.integers(max(len(spread), 1), size=NUM_ANCHORS))
    uv_cover = torch.zeros(sizes.uv_size**2, dtype=torch.bool)
    uv_cover[chart.pixel] = True
    record = GeometryRecord(
        view_cover=packed(face_idx >= 0),
        view_position=_steps(view_position, POSITION_STEP),
        view_normal=_steps(view_normal, NORMAL_STEP, torch.int8),
        view_part=part[views.face],
        uv_cover=packed(uv_cover),
        uv_position=_steps(position, POSITION_STEP),
        uv_normal=_steps(normal, NORMAL_STEP, torch.int8),
        uv_part=part[chart.face],
        uv_visible=bits.to(torch.uint8),
        uv_footprint=encoded_footprint(_texel_size(surface, sizes.uv_size)[chart.face]),
        frame=frame,
        box=torch.stack([own.amin(0), own.amax(0)]),
        eyes=cameras.centers(),
        anchor_position=spread[picks] @ frame[:, :3].T + frame[:, 3],
        anchor_normal=torch.nn.functional.normalize(facing[picks] @ frame[:, :3].T, dim=-1),
        scalars=torch.tensor([float(part.max()) + 1.0, float(facts.symmetric), surface.diagonal]),
    )
    return Survey(record=record, cameras=cameras, views=views, texels=texels)


def texel_fragments(
    surface: SurfaceTensors, uv_size: int, rasterizer: Rasterizer, faces: Tensor | None = None
) -> Fragments | None:
    """Where each texel lies on the surface; ``None`` without UVs.

    Args:
        surface: UVs outside the unit square repeat.
        uv_size: texels of a side.
        rasterizer: names the face of each texel.
        faces: those that give texels their position, boolean ``[T]``; ``None``: all.
    """
    if surface.face_uvs is None:
        return None
    uvs, source = wrapped_uvs(surface, faces)
    local = uv_fragments(rasterizer.face_idx_uv(uvs, height=uv_size, width=uv_size), uvs)
    return replace(local, face=source[local.face])


def _no_fragments(like: Fragments) -> Fragments:
    return Fragments(
        shape=like.shape,
        pixel=like.pixel[:0],
        face=like.face[:0],
        barycentrics=like.barycentrics[:0],
        depth=like.depth[:0],
    )


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


def _texel_size(surface: SurfaceTensors, uv_size: int) -> Tensor:
    """Side of the square in the world that a texel of each face covers, ``[T]``."""
    corners, uvs = surface.corners(), surface.face_uvs
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    if uvs is None:
        side: Tensor = area.sqrt()
        return side
    c, d = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    uv_area = (c[:, 0] * d[:, 1] - c[:, 1] * d[:, 0]).abs() * uv_size**2
    size: Tensor = (area / uv_area.clamp(min=1e-9)).sqrt()
    return size


def _steps(values: Tensor, step: float, dtype: torch.dtype = torch.int16) -> Tensor:
    limit = 1.0 / step
    return (values / step).round().clamp(-limit, limit).to(dtype)
