"""Painting a surface from pictures of it: what each texel looks like in views that see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import CameraRig
from .maps import SurfaceMaps
from .picture_view import BackprojectSettings, PictureViews, Shown, Texels
from .rasterize import Rasterizer
from .surface import SurfaceTensors


@dataclass(frozen=True, kw_only=True, eq=False)
class BackProjection:
    """Colours seen by one or several views, laid out in UV space.

    Args:
        color: ``[3, h, w]``, 0 where nothing was seen.
        weight: trust, ``[h, w]``, the greatest of any view, in [0, 1]; 0 where nothing was seen.
        inside: distance from outlines as a share of the picture's shorter side, ``[h, w]``; of
            several views, their mean as in the colour.
        view_weights: how much each view counts in the colour, ``[F, h, w]``.
    """

    color: Tensor
    weight: Tensor
    inside: Tensor
    view_weights: Tensor

    @property
    def seen(self) -> Tensor:
        """True where some view saw the texel, ``[h, w]``."""
        return self.weight > 0


def backproject(
    surface: SurfaceTensors,
    maps: SurfaceMaps,
    images: Sequence[Tensor],
    cameras: CameraRig,
    *,
    rasterizer: Rasterizer,
    settings: BackprojectSettings | None = None,
) -> BackProjection:
    """Colours of the texels that the views see.

    Args:
        surface: everything that can hide something.
        maps: UV maps (F = 1) of the faces to paint.
        images: one per camera, ``[3, H, W]`` or with alpha ``[4, H, W]``, in [0, 1]; sizes may
            differ. Pixels that are not opaque (alpha below 0.95) are not used.
        cameras: F cameras.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        settings: see :class:`BackprojectSettings`.

    Raises:
        UsageError: not one picture per camera, or a picture of another shape.
    """
    views = PictureViews(surface, images, cameras, rasterizer=rasterizer, settings=settings)
    return backproject_layers(views, [maps])[0]


def backproject_layers(views: PictureViews, layers: Sequence[SurfaceMaps]) -> list[BackProjection]:
    """:func:`backproject` for several layers of one texture; each picture is looked at once.

    Args:
        views: the pictures.
        layers: UV maps (F = 1) of the faces to paint.
    """
    texels = [Texels.of(views.surface, maps) for maps in layers]
    shown: list[list[Shown]] = [[] for _ in layers]
    for view in views:
        for one, found in zip(texels, shown, strict=True):
            found.append(view.shows(one))
    return [
        _blended(found, one, maps.size, views.settings)
        for found, one, maps in zip(shown, texels, layers, strict=True)
    ]


def _blended(
    shown: Sequence[Shown],
    texels: Texels,
    size: tuple[int, int],
    settings: BackprojectSettings,
) -> BackProjection:
    """What all views show, weighed."""
    trust = torch.stack([one.trust for one in shown])
    weight = trust * torch.stack([one.facing for one in shown]) ** settings.facing_power
    found = [torch.cat([one.color, one.inside[:, None]], dim=1) for one in shown]
    mean = (torch.stack(found) * weight[..., None]).sum(0)
    mean = mean / weight.sum(0).clamp(min=1e-12)[:, None]
    flat = torch.zeros(len(shown) + 5, size[0] * size[1], device=mean.device)
    flat[:, texels.index] = torch.cat([mean.T, trust.amax(0)[None], weight])
    flat = flat.reshape(-1, *size)
    return BackProjection(color=flat[:3], inside=flat[3], weight=flat[4], view_weights=flat[5:])
