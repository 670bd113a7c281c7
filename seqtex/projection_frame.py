"""The reference laid out in UV space, as one more conditioning frame for the model.

A model of few parameters should not have to learn how to copy a picture onto a mesh: geometry can
do that. The frame shows what the references show and, elsewhere, their smooth continuation; its
normals are zero where nothing was seen, so that the model can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from seqtex_core.tasks import PROJECTION, TEXTURE
from seqtex_geometry.backproject import backproject_layers
from seqtex_geometry.fill import fill_smooth_surface
from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.parts import connected_parts, shown_parts
from seqtex_geometry.picture_view import PictureViews
from seqtex_geometry.regions import fill_by_region, numbered_pairs
from seqtex_geometry.stains import stained

from .models.config import TextureBase
from .prepare import PreparedJob

NOTHING_SEEN = 0.5
"""Grey level of the frame if no texel at all was seen."""


def completed_frame(
    color: Tensor,
    seen: Tensor,
    position: Tensor,
    normal: Tensor,
    mask: Tensor,
    *,
    part: Tensor | None = None,
    region: Tensor | None = None,
) -> Tensor:
    """The frame's colours, ``[3, H, W]``; black off the charts.

    Args:
        color: of the texels that were seen, ``[3, H, W]`` in [0, 1].
        seen: True where the colour counts, ``[H, W]``.
        position: of the surface, ``[3, H, W]``.
        normal: of the surface, ``[3, H, W]``, of any length.
        mask: True on the charts, ``[H, W]``.
        part: number of the part of the mesh that a texel belongs to, ``[H, W]``, if known.
        region: of which the colours stay among themselves, likewise.
    """
    known = (seen & mask)[mask]
    frame = torch.zeros_like(color)
    if not bool(known.any()):
        frame[:, mask] = NOTHING_SEEN
        return frame
    points, colors = position[:, mask].T, color[:, mask].T
    facing = normalize(normal[:, mask].T, dim=-1)
    parts = None if part is None else part[mask]

    def filled(rows: Tensor) -> Tensor:
        some = None if parts is None else parts[rows]
        return fill_smooth_surface(
            points[rows], colors[rows], known[rows], normal=facing[rows], part=some
        )

    regions = torch.zeros_like(known, dtype=torch.int64) if region is None else region[mask]
    frame[:, mask] = fill_by_region(points, colors, known, regions, filled).T
    return frame


def marked_normal(normal: Tensor, seen: Tensor) -> Tensor:
    """Normals ``[3, H, W]`` with zeros where nothing was seen."""
    return normal * seen.to(normal.dtype)


def as_residual(clean: Mapping[str, Tensor], base: TextureBase) -> dict[str, Tensor]:
    """Clean latents by group with the texture's measured from ``base``.

    A model of few parameters then starts at the projection instead of having to learn to copy it.
    """
    if base == "none" or TEXTURE not in clean or PROJECTION not in clean:
        return dict(clean)
    return {**clean, TEXTURE: clean[TEXTURE] - clean[PROJECTION]}


def from_residual(
    latents: Mapping[str, Tensor], projection: Tensor | None, base: TextureBase
) -> dict[str, Tensor]:
    """The inverse of :func:`as_residual` on sampled latents.

    Args:
        latents: by group.
        projection: clean latents of the projection frame, if the task has one.
        base: of the model.
    """
    if base == "none" or TEXTURE not in latents or projection is None:
        return dict(latents)
    return {**latents, TEXTURE: latents[TEXTURE] + projection.to(latents[TEXTURE])}


def kept_as_shown(texture: Tensor, frame: Tensor, seen: Tensor, base: TextureBase) -> Tensor:
    """The model's texture, with the frame's own texels where something was seen.

    A model whose texture is measured from the frame has only the rest to say.

    Args:
        texture: ``[3, H, W]``.
        frame: likewise.
        seen: True where the frame's colours count, ``[H, W]``.
        base: of the model; anything but ``"projection"`` leaves the texture as it is.
    """
    return torch.where(seen, frame, texture) if base == "projection" else texture


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectionFrame:
    """The references of a job laid out in UV space.

    Args:
        image: ``[3, H, W]`` in [0, 1], black off the charts.
        seen: texels that a reference shows, ``[H, W]`` bool, but for those that have the colour of
            another part of the mesh (:mod:`seqtex_geometry.stains`); the others are continued.
        maps: the UV maps, with marked normals.
        part: number of the connected part of the mesh, and of the plain material on it, that a
            texel belongs to, ``[H, W]`` int64; -1 where too little of that is seen to continue it
            from itself, and off the charts.
    """

    image: Tensor
    seen: Tensor
    maps: SurfaceMaps
    part: Tensor


def reference_views(job: PreparedJob, size: int, *, keep: bool = False) -> PictureViews:
    """A job's references for :func:`project_frame`.

    Args:
        job: with references.
        size: longer side of the frame.
        keep: what was found out about them, since several texture sets are to be shown.
    """
    return PictureViews(
        job.surface,
        [_near(torch.cat([one.rgb, one.mask]), 2 * size) for one in job.references],
        job.cameras.select(*(one.view for one in job.references)),
        rasterizer=job.rasterizer,
        keep=keep,
    )


def project_frame(
    job: PreparedJob, maps: SurfaceMaps, views: PictureViews | None = None
) -> ProjectionFrame:
    """The frame of a job's references.

    Args:
        job: with references or none.
        maps: UV maps (F = 1) of the texture set.
        views: of :func:`reference_views`, if several texture sets share them.
    """
    height, width = maps.size
    part = connected_parts(job.surface)[maps.face_idx[0]]
    region = job.face_regions[maps.face_idx[0]]
    there = maps.hit[0]
    own = numbered_pairs(part[there], region[there])
    color = torch.zeros(3, height, width, device=job.device)
    seen = torch.zeros(height, width, dtype=torch.bool, device=job.device)
    if job.references:
        shown = backproject_layers(views or reference_views(job, max(maps.size)), [maps])[0]
        color = shown.color
        points = shown.color[:, there].T, own, shown.seen[there], shown.inside[there]
        seen = shown.seen.masked_scatter(there, points[2] & ~stained(*points))
    position = maps.position[0].permute(2, 0, 1)
    normal = maps.normal[0].permute(2, 0, 1)
    frame = completed_frame(color, seen, position, normal, maps.hit[0], part=part, region=region)
    marked = marked_normal(normal, seen).permute(1, 2, 0)[None]
    seen = seen & maps.hit[0]
    alone = torch.full_like(part, -1)
    alone[there] = shown_parts(own, seen[there])
    maps = replace(maps, normal=marked)
    return ProjectionFrame(image=frame, seen=seen, maps=maps, part=alone)


def _near(picture: Tensor, size: int) -> Tensor:
    """The picture with at most ``size`` pixels a side, so that sampling it does not alias."""
    if picture.shape[-1] <= size:
        return picture
    small = interpolate(picture[None], (size, size), mode="bilinear", antialias=True)
    return small[0]
