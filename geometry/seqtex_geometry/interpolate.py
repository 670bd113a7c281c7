"""From face indices to barycentrics, depth and attributes: one differentiable function for all.

Rasterizer backends only name the face under a pixel. Everything else is computed here, perspective
correct, from the pixel's ray and the face's plane; so backends agree wherever they name the same
face, and every attribute is differentiable in the vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_core.errors import UsageError

from .cameras import CameraRig
from .surface import SurfaceTensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Fragments:
    """The covered pixels of an image stack: which face, and where on it.

    Args:
        shape: ``(F, H, W)``.
        pixel: flat index of each covered pixel, ``[N]`` int64, sorted.
        face: its face, ``[N]`` int64.
        barycentrics: weights of the face's corners, ``[N, 3]``, in [0, 1] and summing to 1.
        depth: depth in the camera, ``[N]``; 0 in UV space.
    """

    shape: tuple[int, int, int]
    pixel: Tensor
    face: Tensor
    barycentrics: Tensor
    depth: Tensor

    def interpolate(self, attributes: Tensor, faces: Tensor | None = None) -> Tensor:
        """Attributes of the covered pixels, ``[N, C]``.

        Args:
            attributes: per vertex ``[V, C]`` with ``faces [T, 3]``, or per corner ``[T, 3, C]``.
            faces: vertex indices; only with per-vertex attributes.

        Raises:
            UsageError: a shape that is neither.
        """
        if attributes.ndim == 2 and faces is not None:
            corners = attributes[faces[self.face]]
        elif attributes.ndim == 3 and faces is None and attributes.shape[1] == 3:
            corners = attributes[self.face]
        else:
            raise UsageError(
                "attributes",
                expected="[V, C] with faces, or [T, 3, C] without",
                got=f"{list(attributes.shape)} {'without' if faces is None else 'with'} faces",
            )
        return torch.einsum("nk,nkc->nc", self.barycentrics.to(corners.dtype), corners)

    def image(self, values: Tensor, background: float = 0.0) -> Tensor:
        """Values ``[N]`` or ``[N, C]`` laid out as ``[F, H, W]`` or ``[F, H, W, C]``."""
        flat = values.new_full((torch.Size(self.shape).numel(), *values.shape[1:]), background)
        return flat.index_copy(0, self.pixel, values).reshape(*self.shape, *values.shape[1:])

    def mask(self) -> Tensor:
        """True where a pixel is covered, ``[F, H, W]``."""
        flat = torch.zeros(torch.Size(self.shape), dtype=torch.bool, device=self.pixel.device)
        flat.view(-1)[self.pixel] = True
        return flat


def view_fragments(face_idx: Tensor, surface: SurfaceTensors, cameras: CameraRig) -> Fragments:
    """Where each pixel's ray meets the plane of its face.

    Args:
        face_idx: ``[F, H, W]`` int64, -1 is background.
        surface: may require gradients.
        cameras: F cameras.

    Convention:
        Computed in double precision and returned in the surface's dtype. A backend may name a face
        whose border lies a rounding error beside the pixel centre: weights are clamped to the face.
    """
    frames, height, width = face_idx.shape
    pixel = torch.nonzero(face_idx.reshape(-1) >= 0)[:, 0]
    face = face_idx.reshape(-1)[pixel]
    origins, directions = _pixel_rays(cameras, pixel, height, width)
    corners = surface.vertices[surface.faces[face]].double()
    depth, weights = intersect_planes(corners, origins, directions)
    dtype = surface.vertices.dtype
    return Fragments(
        shape=(frames, height, width),
        pixel=pixel,
        face=face,
        barycentrics=weights.to(dtype),
        depth=depth.to(dtype),
    )


def intersect_planes(corners: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameter ``[N]`` and clamped barycentrics ``[N, 3]`` of rays and face planes.

    Args:
        corners: ``[N, 3, 3]``.
        origins: ``[N, 3]``.
        directions: ``[N, 3]``, of any length.
    """
    first, edge1, edge2 = (
        corners[:, 0],
        corners[:, 1] - corners[:, 0],
        corners[:, 2] - corners[:, 0],
    )
    normal = torch.linalg.cross(edge1, edge2)
    along = ((first - origins) * normal).sum(-1) / (directions * normal).sum(-1)
    offset = origins + along[:, None] * directions - first
    area = (normal * normal).sum(-1)
    weight1 = (torch.linalg.cross(offset, edge2) * normal).sum(-1) / area
    weight2 = (torch.linalg.cross(edge1, offset) * normal).sum(-1) / area
    return along, _clamped(weight1, weight2)


def uv_fragments(face_idx: Tensor, face_uvs: Tensor) -> Fragments:
    """Affine barycentrics of each texel centre in its face.

    Args:
        face_idx: ``[H, W]`` int64, -1 is background.
        face_uvs: ``[T, 3, 2]``, v up; may require gradients.
    """
    height, width = face_idx.shape
    pixel = torch.nonzero(face_idx.reshape(-1) >= 0)[:, 0]
    face = face_idx.reshape(-1)[pixel]
    corners = face_uvs[face].double()
    column, row = pixel % width, pixel // width
    point = torch.stack([(column + 0.5) / width, 1.0 - (row + 0.5) / height], dim=-1).double()
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = point - corners[:, 0]
    area = _cross2(edge1, edge2)
    weights = _clamped(_cross2(offset, edge2) / area, _cross2(edge1, offset) / area)
    return Fragments(
        shape=(1, height, width),
        pixel=pixel,
        face=face,
        barycentrics=weights.to(face_uvs.dtype),
        depth=torch.zeros_like(pixel, dtype=face_uvs.dtype),
    )


def triangle_areas(corners: Tensor) -> Tensor:
    """Areas of triangles in the plane, ``[T]`` from ``[T, 3, 2]``."""
    return 0.5 * _cross2(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).abs()


def _clamped(weight1: Tensor, weight2: Tensor) -> Tensor:
    weights = torch.stack([1.0 - weight1 - weight2, weight1, weight2], dim=-1).clamp(min=0.0)
    return weights / weights.sum(-1, keepdim=True)


def _cross2(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _pixel_rays(
    cameras: CameraRig, pixel: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Double-precision rays of the given flat pixel indices, ``[N, 3]`` each."""
    matrices = cameras.world_to_camera.to(pixel.device).double()
    frame = pixel // (height * width)
    row, column = pixel // width % height, pixel % width
    half_width, half_height = cameras.half_size(height, width)
    x = ((column + 0.5).double() * (2.0 / width) - 1.0) * half_width
    y = (1.0 - (row + 0.5).double() * (2.0 / height)) * half_height
    axes = matrices[:, :3, :3]
    centers = -torch.einsum("fji,fj->fi", axes, matrices[:, :3, 3])[frame]
    plane = x[:, None] * axes[frame, 0] + y[:, None] * axes[frame, 1]
    forward = -axes[frame, 2]
    if cameras.projection == "perspective":
        return centers, forward + plane
    return centers + plane, forward
