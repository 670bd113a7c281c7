"""Pictures of a surface: which texels each shows, what they look like, how far to believe it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

from seqtex_core.errors import UsageError

from .cameras import CameraRig
from .interpolate import triangle_areas, view_fragments
from .maps import SurfaceMaps
from .rasterize import Rasterizer
from .sampling import bicubic, bilinear, mip_levels, sample_levels
from .seams import extend_nearest
from .surface import SurfaceTensors

_MIN_DEPTH_SIZE = 512  # shorter side of the depth map that decides what is hidden, in pixels
_OPAQUE = 0.95  # alpha from here on is opaque: palettes and lossy codecs leave 0.98 or so inside
_JUMP = 3.0  # second difference of the depth, in pixel widths, beyond which it jumps


@dataclass(frozen=True, kw_only=True)
class BackprojectSettings:
    """When a texel counts as seen, and how views are weighed.

    Args:
        min_facing: least cosine between the surface and the line of sight; flatter is not seen.
        full_facing: cosine from which a surface is fully trusted.
        facing_power: views that see the same texel are weighed by the cosine to this power.
        margin: pixels (of the picture) beside those that mix two surfaces, or surface and
            background, that are not trusted either. More helps pictures that fit badly.
        feather: further pixels over which trust grows to 1.
        depth_bias: how far behind the nearest surface still counts as the surface, in pixel widths;
            grows with the slope.
    """

    min_facing: float = 0.1
    full_facing: float = 0.3
    facing_power: float = 4.0
    margin: float = 0.5
    feather: float = 2.0
    depth_bias: float = 1.5


class PictureViews:
    """Pictures of a surface, looked at one after another; or once, for many textures.

    Args:
        surface: everything that can hide something.
        images: one per camera, ``[3, H, W]`` or with alpha ``[4, H, W]``, in [0, 1]; sizes may
            differ. Pixels that are not opaque (alpha below 0.95) are not used.
        cameras: F cameras.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        settings: see :class:`BackprojectSettings`.
        keep: what was found out, for the next texture: about 32 bytes per pixel.

    Raises:
        UsageError: not one picture per camera, or a picture of another shape.
    """

    def __init__(
        self,
        surface: SurfaceTensors,
        images: Sequence[Tensor],
        cameras: CameraRig,
        *,
        rasterizer: Rasterizer,
        settings: BackprojectSettings | None = None,
        keep: bool = False,
    ) -> None:
        if len(images) != len(cameras):
            expected = f"{len(cameras)}, one per camera"
            raise UsageError("images", expected=expected, got=str(len(images)))
        for name, image in zip(cameras.names, images, strict=True):
            if image.ndim != 3 or image.shape[0] not in (3, 4):
                raise UsageError(
                    f"image of view {name!r}",
                    expected="shape [3, H, W] or [4, H, W]",
                    got=str(list(image.shape)),
                )
        self.surface = surface
        self.settings = settings or BackprojectSettings()
        self._images = images
        self._cameras = cameras.to(surface.device)
        self._rasterizer = rasterizer
        self._keep = keep
        self._kept: dict[int, PictureView] = {}

    def __iter__(self) -> Iterator[PictureView]:
        """What is known of each picture."""
        for index, name in enumerate(self._cameras.names):
            view = self._kept.get(index)
            if view is None:
                picture = self._images[index].detach().to(self.surface.device).float()
                camera = self._cameras.select(name)
                view = PictureView.of(
                    self.surface, picture, camera, self._rasterizer, self.settings
                )
            if self._keep:
                self._kept[index] = view
            yield view


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What texels look like in one picture.

    Args:
        color: ``[N, 3]``.
        trust: ``[N]``.
        facing: cosine to the line of sight, ``[N]``.
        inside: distance from outlines as a share of the picture's shorter side, ``[N]``.
    """

    color: Tensor
    trust: Tensor
    facing: Tensor
    inside: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Texels:
    """The covered texels: flat index, face, position, unit face normal, texels per UV area."""

    index: Tensor
    face: Tensor
    position: Tensor
    normal: Tensor
    texel_area: Tensor

    def rows(self, rows: Tensor) -> Texels:
        """Some of the texels."""
        return Texels(**{name: value[rows] for name, value in vars(self).items()})

    @classmethod
    def of(cls, surface: SurfaceTensors, maps: SurfaceMaps) -> Texels:
        """The covered texels of UV maps (F = 1)."""
        face_idx = maps.face_idx.reshape(-1)
        index = torch.nonzero(face_idx >= 0)[:, 0]
        face = face_idx[index]
        if surface.face_uvs is None:
            raise UsageError("surface.face_uvs", expected="UV coordinates", got="none")
        height, width = maps.size
        uv_area = triangle_areas(surface.face_uvs.detach())[face]
        return cls(
            index=index,
            face=face,
            position=maps.position.detach().reshape(-1, 3)[index],
            normal=_face_normals(surface)[face],
            texel_area=uv_area * height * width,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureView:
    """A picture and what is known of it whatever texels are asked for.

    Args:
        camera: that sees it.
        settings: when a texel counts as seen.
        buffer: depth, some times finer than the picture.
        finer: so many times.
        inside: of the buffer's pixels, distance from outlines in pixels of the picture, ``[H, W]``.
        trust: likewise, ``[H, W]``.
        levels: the picture without what is not trusted, and its mip levels.
        screen: area of every face in the picture, in pixels.

    Convention:
        A texel takes the colour of the very point that it projects to, but for float rounding
        (0.0001 pixels). Beside outlines the filters also read what stands for pixels that are not
        trusted: copies of the nearest trusted ones. There the colour is from a place up to 1.5
        pixels further inside, 0.25 on average where trust is below a half.
    """

    camera: CameraRig
    settings: BackprojectSettings
    buffer: _DepthBuffer
    finer: int
    inside: Tensor
    trust: Tensor
    levels: tuple[Tensor, ...]
    screen: Tensor

    @classmethod
    def of(
        cls,
        surface: SurfaceTensors,
        picture: Tensor,
        camera: CameraRig,
        rasterizer: Rasterizer,
        settings: BackprojectSettings,
    ) -> PictureView:
        """What is known of ``picture``, as one camera sees it."""
        height, width = picture.shape[1:]
        finer = -(-_MIN_DEPTH_SIZE // min(height, width))
        buffer = _DepthBuffer.of(surface, camera, (height * finer, width * finer), rasterizer)
        inside = _inside(buffer, picture, camera, finer)
        trust = ((inside - settings.margin) / settings.feather).clamp(0, 1)
        trusted = -max_pool2d(-trust[None, None], finer)[0, 0] > 0
        clean = extend_nearest(picture[:3], trusted)
        pixels, _ = camera.project_to_pixels(surface.vertices.detach(), height, width)
        return cls(
            camera=camera,
            settings=settings,
            buffer=buffer,
            finer=finer,
            inside=inside,
            trust=trust,
            levels=tuple(mip_levels(clean)),
            screen=triangle_areas(pixels[0][surface.faces]),
        )

    def shows(self, texels: Texels) -> Shown:
        """What the texels look like, and how far that is to be believed."""
        settings, (height, width) = self.settings, self.levels[0].shape[1:]
        facing, visible = self.buffer.test(texels, self.camera, settings)
        points, _ = self.camera.project_to_pixels(texels.position, height, width)
        near = _interpolated_trust(self.trust, points[0] * self.finer)
        span = max(settings.full_facing - settings.min_facing, 1e-6)
        steep = ((facing - settings.min_facing) / span).clamp(0, 1)
        trust = torch.where(visible, near * steep, 0.0)
        color = torch.zeros_like(texels.position)
        seen = torch.nonzero(trust)[:, 0]
        color[seen] = self._sample(texels.rows(seen), points[0, seen])
        inside = bilinear(self.inside[None], points[0] * self.finer)[:, 0] / min(height, width)
        return Shown(color=color, trust=trust, facing=facing, inside=inside)

    def _sample(self, texels: Texels, points: Tensor) -> Tensor:
        """Colours ``[N, 3]``: bicubic where texels are finer than pixels, else a mip level."""
        screen = self.screen[texels.face]
        level = 0.5 * torch.log2((screen / texels.texel_area.clamp(min=1e-12)).clamp(min=1.0))
        sharp = bicubic(self.levels[0], points)
        soft = level > 0
        if bool(soft.any()):
            share = level.clamp(0, 1)[:, None]
            coarse = sample_levels(self.levels, points, level)
            sharp = sharp * (1 - share) + coarse * share
        return sharp.clamp(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _DepthBuffer:
    """Nearest depth (infinite where there is none) and face of every pixel, ``[H, W]``."""

    depth: Tensor
    face_idx: Tensor
    normals: Tensor

    @classmethod
    def of(
        cls,
        surface: SurfaceTensors,
        camera: CameraRig,
        size: tuple[int, int],
        rasterizer: Rasterizer,
    ) -> _DepthBuffer:
        face_idx = rasterizer.face_idx_views(surface, camera, height=size[0], width=size[1])
        fragments = view_fragments(face_idx, surface, camera)
        depth = fragments.image(fragments.depth.detach(), torch.inf)
        return cls(depth=depth[0], face_idx=face_idx[0], normals=_face_normals(surface))

    def test(
        self, texels: Texels, camera: CameraRig, settings: BackprojectSettings
    ) -> tuple[Tensor, Tensor]:
        """Cosine to the line of sight ``[N]``, and whether the texel is the nearest surface.

        The pixel nearest to the texel sees the surface at a slightly other place. The texel's own
        plane says which depth to expect there, so slanted surfaces need no large tolerance.
        """
        height, width = self.depth.shape
        points, depths = camera.project_to_pixels(texels.position, height, width)
        point, depth = points[0], depths[0]
        column, row = point.floor().long().clamp(min=0).unbind(-1)
        inside = (point > 0).all(-1) & (point[:, 0] < width) & (point[:, 1] < height)
        column, row = column.clamp(max=width - 1), row.clamp(max=height - 1)
        origins, directions = camera.rays(height, width)
        origin, direction = origins[0][row, column], directions[0][row, column]
        slant = (direction * texels.normal).sum(-1)
        expected = ((texels.position - origin) * texels.normal).sum(-1) / _away_from_zero(slant)
        facing = slant.abs() / torch.linalg.vector_norm(direction, dim=-1)
        pixel = torch.full_like(depth, 2.0 * camera.half_extent / min(height, width))
        if camera.projection == "perspective":
            pixel = pixel * depth
        slope = (1.0 - facing**2).clamp(min=0).sqrt() / facing.clamp(min=0.05)
        bias = settings.depth_bias * pixel * (1.0 + slope)
        # The plane is trusted only near the texel: it may predict nonsense when seen edge-on.
        expected = torch.minimum(torch.maximum(expected, depth - bias), depth + bias)
        hit = self.face_idx[row, column]
        same_side = (self.normals[hit.clamp(min=0)] * direction).sum(-1) * slant > 0
        nearest = (hit == texels.face) | (same_side & (expected <= self.depth[row, column] + bias))
        seen = inside & (depth > camera.near) & (hit >= 0) & nearest
        return facing, seen & (facing >= settings.min_facing)

    def jumps(self, camera: CameraRig) -> Tensor:
        """True on the background and where the depth jumps among the 8 neighbours, ``[H, W]``.

        On a plane, depth (orthographic) or its inverse (perspective) is affine in the picture, so
        its second difference is 0 however slanted the plane; a crease gives at most a few pixel
        widths, a jump more.
        """
        perspective = camera.projection == "perspective"
        background = torch.isinf(self.depth)
        depth = torch.where(background, camera.far, self.depth)
        affine = 1.0 / depth if perspective else depth
        padded = torch.nn.functional.pad(affine[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
        height, width = affine.shape
        pixel = 2.0 * camera.half_extent / min(height, width)
        limit = _JUMP * pixel / depth if perspective else torch.full_like(depth, _JUMP * pixel)
        jump = background.clone()
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            ahead = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            behind = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
            jump |= (ahead + behind - 2 * affine).abs() > limit
        return jump


def _inside(buffer: _DepthBuffer, picture: Tensor, camera: CameraRig, finer: int) -> Tensor:
    """How far each pixel of the depth map is from outlines, in picture pixels, ``[H, W]``."""
    height, width = buffer.depth.shape
    bad = buffer.jumps(camera)
    softness = (picture[3:] > 0.01) & (picture[3:] < _OPAQUE)
    if picture.shape[0] == 4:
        clear = (picture[3:] < _OPAQUE).float()[None]
        bad = bad | (torch.nn.functional.interpolate(clear, (height, width))[0, 0] > 0)
    if not bool(softness.any()):
        # Nothing says which pixels mix with the background: those next to it may.
        background = torch.isinf(buffer.depth).float()[None, None]
        bad = bad | (max_pool2d(background, 2 * finer + 1, 1, finer)[0, 0] > 0)
    distance = distance_transform_edt(np.pad(~bad.cpu().numpy(), 1))[1:-1, 1:-1]
    return torch.from_numpy(distance).to(picture) / finer


def _interpolated_trust(trust: Tensor, points: Tensor) -> Tensor:
    """Trust between pixel centres, ``[N]``; 0 where any of the four around has none."""
    both = bilinear(torch.stack([trust, (trust == 0).to(trust.dtype)]), points)
    return torch.where(both[:, 1] > 0, 0.0, both[:, 0])


def _face_normals(surface: SurfaceTensors) -> Tensor:
    corners = surface.corners().detach()
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normalize(cross, dim=-1, eps=1e-20)


def _away_from_zero(values: Tensor) -> Tensor:
    return torch.where(values.abs() < 1e-6, 1e-6, values)
