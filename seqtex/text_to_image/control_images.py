"""Control images: a view's depth and normals as pictures that ControlNets were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from seqtex_core.errors import InputError
from seqtex_geometry.contact_sheet import to_image
from seqtex_geometry.maps import SurfaceMaps, view_maps

from .kinds import ControlKind, NormalConvention

if TYPE_CHECKING:
    from PIL import Image

    from seqtex_geometry.cameras import CameraRig
    from seqtex_geometry.surface import SurfaceTensors

    from ..prepare import PreparedJob

_SUPERSAMPLE = 2
_FARTHEST = 0.2  # brightness of the farthest surface; what is black is background
_FACING_CAMERA = (0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlImages:
    """What a picture of one view must agree with; square, float32 in [0, 1].

    Args:
        view: name of the view.
        depth: inverse depth, ``[3, S, S]`` (three equal channels): the nearest surface is white,
            the farthest dark grey, the background black.
        normal: unit normals in camera space, ``[3, S, S]``, stored as value / 2 + 0.5; the
            background faces the camera.
        mask: covered share of each pixel, ``[1, S, S]``.
        normal_convention: axes of ``normal``: ``bae`` has red to the left, ``opengl`` to the right;
            both have green up and blue towards the camera.

    Convention:
        Depth as by MiDaS, DPT and Depth Anything, on whose output the depth ControlNets of SDXL
        and FLUX were trained. Normals as by NormalBae (``bae``), on whose output the SDXL union and
        the FLUX normal ControlNets were trained: the release scripts of xinsir6/ControlNetPlus
        and the model card of jasperai/Flux.1-dev-Controlnet-Surface-Normals call that detector;
        its x axis points left (maturk/dn-splatter, pull request 17; threestudio, issue 189).
        A network never returns "no normal": its background is a wall that faces the camera.
    """

    view: str
    depth: Tensor
    normal: Tensor
    mask: Tensor
    normal_convention: NormalConvention

    @property
    def size(self) -> int:
        """Edge length in pixels."""
        return int(self.mask.shape[-1])

    def picture(self, kind: ControlKind) -> Tensor:
        """The control image called ``kind``, ``[3, S, S]``."""
        return self.depth if kind == "depth" else self.normal

    def image(self, kind: ControlKind) -> Image.Image:
        """The control image called ``kind`` in 8 bits, as the networks were trained on.

        Pipelines differ in the range that they expect of tensors, not of images.
        """
        return to_image(self.picture(kind))


def draw_control_images(
    job: PreparedJob, view: str, *, size: int, normal_convention: NormalConvention = "bae"
) -> ControlImages:
    """Depth, normals and mask of one view, antialiased.

    Args:
        job: the mesh; references and UVs are not used.
        view: name of a view of the job's rig.
        size: edge length in pixels.
        normal_convention: see :class:`ControlImages`.

    Raises:
        UsageError: an unknown view, or a size that is not positive.
        InputError: the view shows nothing of the mesh.
    """
    camera = job.cameras.select(view)
    maps = view_maps(
        job.surface,
        camera,
        height=size * _SUPERSAMPLE,
        width=size * _SUPERSAMPLE,
        rasterizer=job.rasterizer,
    )
    if not bool(maps.hit.any()):
        raise InputError(job.asset.path.name, expected=f"surface in the {view} view", got="none")
    normals = camera_normals(maps, job.surface, camera)
    if normal_convention == "bae":
        normals = normals * normals.new_tensor([-1.0, 1.0, 1.0])
    depth = avg_pool2d(inverse_depth(maps)[:, None], _SUPERSAMPLE)[0]
    return ControlImages(
        view=view,
        depth=depth.expand(3, -1, -1).contiguous(),
        normal=avg_pool2d(normals.permute(0, 3, 1, 2) / 2 + 0.5, _SUPERSAMPLE)[0],
        mask=avg_pool2d(maps.mask[:, None], _SUPERSAMPLE)[0],
        normal_convention=normal_convention,
    )


def inverse_depth(maps: SurfaceMaps) -> Tensor:
    """1 / depth, from 0.2 at the farthest visible point to 1 at the nearest, ``[F, H, W]``.

    The background is 0. A surface of one depth is 1 everywhere.

    Args:
        maps: of views, without supersampling.
    """
    hit = maps.hit
    inverse = torch.where(hit, 1.0 / maps.depth.clamp(min=1e-6), 0.0)
    nearest, farthest = inverse[hit].max(), inverse[hit].min()
    span = nearest - farthest
    share = (inverse - farthest) / span if float(span) > 1e-9 else torch.ones_like(inverse)
    return torch.where(hit, _FARTHEST + (1.0 - _FARTHEST) * share, 0.0)


def camera_normals(maps: SurfaceMaps, surface: SurfaceTensors, camera: CameraRig) -> Tensor:
    """Unit normals as one camera sees them, ``[1, H, W, 3]``: x right, y up, z towards it.

    Normals are turned to the side of the face that is seen, so that back faces and faces of
    inverted winding look like any other. The background faces the camera.

    Args:
        maps: of that one camera, without supersampling.
        surface: the surface of the maps.
        camera: one camera.
    """
    corners = surface.vertices[surface.faces]
    flat = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    faces = flat[maps.face_idx.clamp(min=0)]
    to_camera = -camera.to(surface.device).rays(*maps.size)[1]
    seen_side = faces * torch.sign((faces * to_camera).sum(-1, keepdim=True))
    turned = (maps.normal * seen_side).sum(-1, keepdim=True) < 0
    world = normalize(torch.where(turned, -maps.normal, maps.normal), dim=-1)
    rotation = camera.world_to_camera[0, :3, :3].to(world)
    facing = world.new_tensor(_FACING_CAMERA).expand_as(world)
    return torch.where(maps.hit[..., None], world @ rotation.T, facing)
