"""Embree ray casting on the CPU (package ``embreex``)."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from ..cameras import CameraRig
from ..surface import SurfaceTensors
from .triangles import solid_faces, uv_corners, uv_rays, visible_depth_only


class EmbreeRasterizer:
    """One ray per pixel through Embree's watertight (robust) triangle test."""

    name = "embree"
    devices = ("cpu",)

    def reason_unsupported(self, device: torch.device) -> str | None:
        """Why Embree cannot run on ``device``; ``None`` if it can."""
        if device.type != "cpu":
            return f"Embree runs on the CPU, not on {device.type}"
        if find_spec("embreex") is None:
            return (
                "the package embreex is not installed (pip install embreex; it has no wheel for "
                "Linux on aarch64)"
            )
        return None

    def face_idx_views(
        self, surface: SurfaceTensors, cameras: CameraRig, *, height: int, width: int
    ) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        origins, directions = cameras.rays(height, width)
        origins = origins + cameras.near * directions
        face_idx = _cast(surface.corners(), origins.reshape(-1, 3), directions.reshape(-1, 3))
        face_idx = face_idx.reshape(origins.shape[:-1])
        return visible_depth_only(face_idx, surface, cameras)

    def face_idx_uv(self, face_uvs: Tensor, *, height: int, width: int) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        origins, direction = uv_rays(height, width, face_uvs.device)
        return _cast(uv_corners(face_uvs), origins, direction).reshape(height, width)


def _cast(corners: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """First face on each ray, ``[N]``; ``directions`` is ``[N, 3]`` or ``[1, 3]``."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    kept = solid_faces(corners)
    if kept.numel() == 0:
        return torch.full((origins.shape[0],), -1, dtype=torch.int64)
    soup = corners.detach()[kept].reshape(-1, 3)
    triangles = np.arange(soup.shape[0], dtype=np.int32).reshape(-1, 3)
    scene = EmbreeScene(robust=True)
    # Embree reads the mesh's buffers while it casts, so the mesh must outlive the query.
    mesh = TriangleMesh(scene, _float32(soup), triangles)
    hit = torch.from_numpy(scene.run(_float32(origins), _float32(directions))).long()
    del mesh
    return torch.where(hit >= 0, kept[hit.clamp(min=0)], hit)


def _float32(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(values.detach().numpy(), dtype=np.float32)


EMBREE = EmbreeRasterizer()
