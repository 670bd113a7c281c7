"""Ray casting with NVIDIA Warp: the same kernel on the CPU and on CUDA (package ``warp-lang``)."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ..cameras import CameraRig
from ..surface import SurfaceTensors
from .triangles import solid_faces, uv_corners, uv_rays, visible_depth_only


class WarpRasterizer:
    """One ray per pixel through a Warp bounding volume hierarchy; compiles on first use."""

    name = "warp"
    devices = ("cpu", "cuda")

    def reason_unsupported(self, device: torch.device) -> str | None:
        """Why Warp cannot run on ``device``; ``None`` if it can."""
        if device.type not in self.devices:
            return f"Warp runs on the CPU and on CUDA, not on {device.type}"
        if find_spec("warp") is None:
            return "the package warp-lang is not installed (pip install warp-lang)"
        if device.type == "cuda":
            return _reason_no_cuda()
        return None

    def face_idx_views(
        self, surface: SurfaceTensors, cameras: CameraRig, *, height: int, width: int
    ) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        origins, directions = cameras.to(surface.device).rays(height, width)
        origins = origins + cameras.near * directions
        face_idx = _cast(surface.corners(), origins.reshape(-1, 3), directions.reshape(-1, 3))
        return visible_depth_only(face_idx.reshape(origins.shape[:-1]), surface, cameras)

    def face_idx_uv(self, face_uvs: Tensor, *, height: int, width: int) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        origins, direction = uv_rays(height, width, face_uvs.device)
        directions = direction.expand(origins.shape)
        return _cast(uv_corners(face_uvs), origins, directions).reshape(height, width)


def _reason_no_cuda() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    import warp

    start_warp()
    return None if warp.is_cuda_available() else "Warp sees no CUDA driver"


def start_warp() -> None:
    """Start Warp's runtime once, without its greeting on standard output."""
    import warp

    if hasattr(warp.config, "log_level"):
        warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)
    else:  # before log levels there was one switch
        warp.config.quiet = True
    warp.init()


def _cast(corners: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """First face on each ray, ``[N]``."""
    kept = solid_faces(corners)
    if kept.numel() == 0 or origins.shape[0] == 0:
        return torch.full((origins.shape[0],), -1, dtype=torch.int64, device=corners.device)
    start_warp()
    from .warp_kernels import cast_rays

    hit = cast_rays(
        corners.detach()[kept].float().reshape(-1, 3).contiguous(),
        origins.detach().float().contiguous(),
        directions.detach().float().contiguous(),
    ).long()
    return torch.where(hit >= 0, kept[hit.clamp(min=0)], hit)


WARP = WarpRasterizer()
