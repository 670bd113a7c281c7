"""Kaolin's CUDA rasterizer (``kaolin.render.mesh.rasterize``), for its face indices only.

Kaolin interpolates with screen-space weights, which is not perspective-correct; given a depth that
is affine on the screen, its choice of the nearest face is exact. Nothing else is taken from it.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ..cameras import CameraRig
from ..surface import SurfaceTensors
from .near_plane import clip_near
from .triangles import solid_faces, uv_corners, visible_depth_only

_INSTALL = (
    "install the wheel that NVIDIA builds for your torch and CUDA versions "
    "(https://kaolin.readthedocs.io/en/latest/notes/installation.html)"
)


class KaolinRasterizer:
    """DIB-R rasterization on CUDA; its cost grows with pixels times faces."""

    name = "kaolin"
    devices = ("cuda",)

    def reason_unsupported(self, device: torch.device) -> str | None:
        """Why Kaolin cannot run on ``device``; ``None`` if it can."""
        if device.type != "cuda":
            return f"Kaolin rasterizes on CUDA only, not on {device.type}"
        return _reason_no_package()

    def face_idx_views(
        self, surface: SurfaceTensors, cameras: CameraRig, *, height: int, width: int
    ) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        kept = solid_faces(surface.corners())
        matrices = cameras.world_to_camera.to(surface.device).double()
        corners = surface.corners().detach()[kept].double()
        local = torch.einsum("fij,tkj->ftki", matrices[:, :3, :3], corners)
        local = local + matrices[:, None, None, :3, 3]
        local[..., 2].neg_()  # depth
        local, source = clip_near(local, cameras.near)
        depth = local[..., 2]
        half = torch.tensor(cameras.half_size(height, width)).to(local)
        if cameras.projection == "perspective":
            image, nearness = local[..., :2] / (half * depth[..., None]), 1.0 / depth
        else:
            image, nearness = local[..., :2] / half, -depth
        face_idx = _rasterize(height, width, nearness, image)
        if source.numel():
            face_idx = torch.where(face_idx >= 0, kept[source[face_idx.clamp(min=0)]], -1)
        return visible_depth_only(face_idx, surface, cameras)

    def face_idx_uv(self, face_uvs: Tensor, *, height: int, width: int) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        kept = solid_faces(uv_corners(face_uvs))
        image = face_uvs.detach()[kept].double()[None] * 2.0 - 1.0
        face_idx = _rasterize(height, width, torch.zeros_like(image[..., 0]), image)[0]
        return (
            torch.where(face_idx >= 0, kept[face_idx.clamp(min=0)], -1) if len(kept) else face_idx
        )


def _rasterize(height: int, width: int, nearness: Tensor, image: Tensor) -> Tensor:
    """Face indices ``[F, H, W]`` of ``nearness [F, T, 3]`` and ``image [F, T, 3, 2]``."""
    from kaolin.render.mesh import rasterize

    nearness, image = nearness.float().contiguous(), image.float().contiguous()
    exact = image.double()
    edge1, edge2 = exact[..., 1, :] - exact[..., 0, :], exact[..., 2, :] - exact[..., 0, :]
    area = edge1[..., 0] * edge2[..., 1] - edge1[..., 1] * edge2[..., 0]
    # Clipped-away faces are NaN; faces seen edge-on would be hit through Kaolin's epsilon.
    valid = torch.isfinite(area) & (area != 0)
    frames = image.shape[0]
    if not bool(valid.any()):  # Kaolin indexes into an empty table here
        return torch.full((frames, height, width), -1, dtype=torch.int64, device=image.device)
    _, face_idx = rasterize(
        height,
        width,
        nearness,
        image,
        torch.zeros_like(nearness)[..., None],
        valid_faces=valid,
        backend="cuda",
    )
    result: Tensor = face_idx.long()
    return result


def _reason_no_package() -> str | None:
    if find_spec("kaolin") is None:
        return f"the package kaolin is not installed ({_INSTALL})"
    try:
        from kaolin.render import mesh
    except ModuleNotFoundError as error:
        if error.name in ("kaolin.render", "kaolin.render.mesh"):
            return (
                "the package called kaolin (0.1) is an empty placeholder, and it is what is "
                f"installed (pip uninstall kaolin, then {_INSTALL})"
            )
        return f"the package kaolin is installed but does not import: {error}"
    except (ImportError, OSError, RuntimeError) as error:
        return f"the package kaolin is installed but does not import: {error}"
    if not hasattr(mesh, "rasterize"):
        return f"kaolin.render.mesh has no rasterize: a version before 0.12 ({_INSTALL})"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


KAOLIN = KaolinRasterizer()
