"""Pictures of a textured mesh, unlit or with simple light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from seqtex_core.errors import UsageError

from .cameras import CameraRig
from .interpolate import Fragments, triangle_areas, view_fragments
from .mesh import Mesh
from .paint import SurfacePaint
from .rasterize import Rasterizer
from .sampling import linear_to_srgb, srgb_to_linear
from .surface import SurfaceTensors

Shading = Literal["unlit", "shaded"]


@dataclass(frozen=True, kw_only=True)
class RenderStyle:
    """How pictures look.

    Args:
        shading: ``unlit`` shows the texture's colours; ``shaded`` adds a lamp above the camera's
            shoulder and light from the sky.
        background: sRGB colour in [0, 1], or ``None`` for transparent.
        supersample: samples per pixel and axis.
    """

    shading: Shading = "unlit"
    background: tuple[float, float, float] | None = None
    supersample: int = 2

    def __post_init__(self) -> None:
        if self.shading not in ("unlit", "shaded"):
            raise UsageError("shading", expected="unlit or shaded", got=repr(self.shading))
        if self.supersample < 1:
            raise UsageError("supersample", expected="at least 1", got=str(self.supersample))


def render_textured(
    mesh: Mesh,
    textures: Sequence[Tensor] | None,
    cameras: CameraRig,
    *,
    height: int,
    width: int,
    rasterizer: Rasterizer,
    style: RenderStyle | None = None,
) -> Tensor:
    """Pictures of ``mesh``, ``[F, 4, H, W]`` float32 in [0, 1]: sRGB and straight alpha.

    Args:
        mesh: as normalised for the cameras.
        textures: one per texture set, ``[3, h, w]``, sRGB, row 0 is v = 1; all on one device, where
            the work is done. They replace the material of their faces; all other faces, or all
            faces with ``None``, show the mesh's materials: image times factor times vertex colour.
        cameras: F cameras.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        style: defaults to unlit on a transparent background.

    Convention:
        Textures repeat and are filtered trilinearly as encoded; factors, vertex colours and light
        multiply linear intensities; supersamples are averaged as encoded. Materials are opaque:
        their alpha is not used. Both sides of a face are seen.

    Raises:
        UsageError: a texture count or shape that does not fit the mesh.
    """
    style = style or RenderStyle()
    _check_textures(mesh, textures)
    device = textures[0].device if textures else torch.device("cpu")
    surface = SurfaceTensors.from_mesh(mesh, device)
    cameras = cameras.to(device)
    scale = style.supersample
    paint = SurfacePaint.of(mesh, textures, device)
    frames = []
    for name in cameras.names:
        camera = cameras.select(name)
        face_idx = rasterizer.face_idx_views(
            surface, camera, height=height * scale, width=width * scale
        )
        fragments = view_fragments(face_idx, surface, camera)
        footprint = uv_footprint(surface, fragments, camera)
        colors = paint.colors(surface, fragments, footprint)
        if style.shading == "shaded":
            colors = linear_to_srgb(srgb_to_linear(colors) * _light(surface, fragments, camera))
        covered = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1).clamp(0, 1)
        frames.append(avg_pool2d(fragments.image(covered).permute(0, 3, 1, 2), scale))
    premultiplied = torch.cat(frames)
    return _composited(premultiplied, style.background)


def uv_footprint(surface: SurfaceTensors, fragments: Fragments, cameras: CameraRig) -> Tensor:
    """Area in the UV square that each covered pixel shows, ``[N]``; 0 without UVs.

    Args:
        surface: with the UVs in question.
        fragments: N covered pixels of F pictures.
        cameras: the F cameras of the pictures.
    """
    if surface.face_uvs is None:
        return torch.zeros(len(fragments.pixel), device=surface.device)
    has_uvs = torch.isfinite(surface.face_uvs).all(-1).all(-1)
    uv_area = triangle_areas(torch.where(has_uvs[:, None, None], surface.face_uvs, 0.0))
    _, height, width = fragments.shape
    pixels, depth = cameras.project_to_pixels(surface.vertices.detach(), height, width)
    per_pixel = []
    for corners, distances in zip(pixels, depth, strict=True):
        screen_area = triangle_areas(corners[surface.faces])
        behind = (distances[surface.faces] <= 0).any(-1)
        per_pixel.append(torch.where(behind, 0.0, uv_area / screen_area.clamp(min=1e-6)))
    return torch.stack(per_pixel)[fragments.pixel // (height * width), fragments.face]


def _light(surface: SurfaceTensors, fragments: Fragments, camera: CameraRig) -> Tensor:
    """Linear light on the covered pixels, ``[N, 1]``: a lamp, the sky and a little from below."""
    corners = surface.corners()[fragments.face]
    flat = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    position = fragments.interpolate(surface.vertices, surface.faces)
    right, up, back = camera.world_to_camera[0, :3, :3]
    to_eye = back.expand_as(position)
    if camera.projection == "perspective":
        to_eye = normalize(camera.centers() - position, dim=-1)
    normal = normalize(fragments.interpolate(surface.vertex_normals, surface.faces), dim=-1)
    away = (flat * to_eye).sum(-1, keepdim=True) < 0
    normal = torch.where(away, -normal, normal)
    lamp = normalize(back + 0.45 * up - 0.35 * right, dim=-1)
    direct = (normal * lamp).sum(-1, keepdim=True).clamp(min=0)
    sky = 0.5 + 0.5 * normal[:, 2:]
    return 0.22 + 0.24 * sky + 0.62 * direct


def _composited(premultiplied: Tensor, background: tuple[float, float, float] | None) -> Tensor:
    color, alpha = premultiplied[:, :3], premultiplied[:, 3:]
    if background is None:
        return torch.cat([color / alpha.clamp(min=1e-8), alpha], dim=1)
    backdrop = torch.tensor(background, device=color.device)[:, None, None]
    return torch.cat([color + (1.0 - alpha) * backdrop, torch.ones_like(alpha)], dim=1)


def _check_textures(mesh: Mesh, textures: Sequence[Tensor] | None) -> None:
    if textures is None:
        return
    if len(textures) != mesh.num_texture_sets:
        raise UsageError(
            "textures", expected=f"{mesh.num_texture_sets}, one per set", got=str(len(textures))
        )
    for index, texture in enumerate(textures):
        if texture.ndim != 3 or texture.shape[0] not in (3, 4):
            raise UsageError(
                f"textures[{index}]", expected="shape [3, h, w]", got=str(list(texture.shape))
            )
