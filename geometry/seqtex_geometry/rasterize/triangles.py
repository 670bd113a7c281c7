"""What the backends share: which faces can be seen at all, and UV space as rays."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras import CameraRig
from ..interpolate import view_fragments
from ..surface import SurfaceTensors


def solid_faces(corners: Tensor) -> Tensor:
    """Indices of the faces with finite corners and an area, int64, sorted.

    Args:
        corners: ``[T, 3, 3]``.
    """
    points = corners.detach().double()
    normal = torch.linalg.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    size = torch.linalg.vector_norm(normal, dim=-1)
    return torch.nonzero(torch.isfinite(size) & (size > 0))[:, 0]


def uv_corners(face_uvs: Tensor) -> Tensor:
    """The mesh laid flat, ``[T, 3, 3]``; each face lies a little lower than the one before.

    So where faces overlap, a ray from above meets the lowest index first. Rays are vertical: the
    height changes nothing else.
    """
    uvs = face_uvs.detach()
    height = torch.arange(len(uvs), device=uvs.device) / -max(len(uvs), 1)
    return torch.cat([uvs, height.to(uvs)[:, None, None].expand(-1, 3, 1)], dim=-1)


def uv_rays(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rays straight down on the texel centres: origins ``[H*W, 3]``, one direction ``[1, 3]``."""
    u = (torch.arange(width, device=device) + 0.5) / width
    v = 1.0 - (torch.arange(height, device=device) + 0.5) / height
    origins = torch.ones(height, width, 3, device=device)
    origins[..., 0] = u
    origins[..., 1] = v[:, None]
    return origins.reshape(-1, 3), torch.tensor([[0.0, 0.0, -1.0]], device=device)


def visible_depth_only(face_idx: Tensor, surface: SurfaceTensors, cameras: CameraRig) -> Tensor:
    """``face_idx`` without the pixels whose nearest face lies beyond the far plane."""
    _, depth = cameras.project(surface.vertices.detach())
    if not bool((depth > cameras.far).any()):
        return face_idx
    fragments = view_fragments(face_idx, surface, cameras)
    beyond = fragments.pixel[fragments.depth > cameras.far]
    face_idx = face_idx.clone()
    face_idx.view(-1)[beyond] = -1
    return face_idx
