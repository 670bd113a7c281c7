"""The model-free method: project reference pictures onto the mesh, and fill in what they miss."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from seqtex_core.errors import UsageError

from .backproject import BackProjection, backproject_layers
from .cameras import Axis, CameraRig
from .fill import fill_nearest_surface, fill_smooth_surface
from .maps import SurfaceMaps
from .parts import connected_parts
from .picture_view import BackprojectSettings, PictureViews
from .rasterize import Rasterizer
from .regions import fill_by_region, numbered_pairs
from .seams import pad_seams
from .stains import stained
from .surface import SurfaceTensors
from .symmetry import find_mirrors

_LOG = logging.getLogger(__name__)

_SOURCE_TRUST = 0.5  # colours of at least this trust spread to what was not seen
_MIN_PICTURE = 2048  # pixels of a picture that are never too many
_FULL_TRUST = 0.25  # colours of at least this trust are used as they are where they were seen

Fill = Literal["smooth", "nearest", "none"]
Mirror = Literal["auto", "none"]


@dataclass(frozen=True, kw_only=True)
class ProjectSettings:
    """How pictures become a texture.

    Args:
        backproject: when a texel counts as seen.
        mirror: ``auto`` copies colours across the planes x = 0 and y = 0 in which the mesh is its
            own mirror image; ``none`` does not.
        fill: what unseen texels get: ``smooth``, ``nearest`` or ``none`` (black).
    """

    backproject: BackprojectSettings = field(default_factory=BackprojectSettings)
    mirror: Mirror = "auto"
    fill: Fill = "smooth"

    def __post_init__(self) -> None:
        if self.mirror not in ("auto", "none"):
            raise UsageError("mirror", expected="auto or none", got=repr(self.mirror))
        if self.fill not in ("smooth", "nearest", "none"):
            raise UsageError("fill", expected="smooth, nearest or none", got=repr(self.fill))


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectedTexture:
    """A texture painted from pictures.

    Args:
        texture: ``[3, h, w]`` in [0, 1], padded around the charts.
        seen: True where a picture shows the texel, ``[h, w]``.
        mirrored: True where the colour was copied across a mirror plane, ``[h, w]``.
        mask: True on the charts, ``[h, w]``.
        share: how far a texel's colour was shown or copied, not filled, ``[h, w]`` in [0, 1].
        mirrors: the mirror planes that were used, such as ``("x",)``.
    """

    texture: Tensor
    seen: Tensor
    mirrored: Tensor
    mask: Tensor
    share: Tensor
    mirrors: tuple[Axis, ...]


def project_texture(
    surface: SurfaceTensors,
    maps: SurfaceMaps | Sequence[SurfaceMaps],
    references: Mapping[str, Tensor],
    cameras: CameraRig,
    *,
    rasterizer: Rasterizer,
    settings: ProjectSettings | None = None,
) -> ProjectedTexture:
    """A complete texture from one or several reference pictures, without any model.

    Args:
        surface: everything that can hide something.
        maps: see :meth:`Projector.texture`.
        references: see :class:`Projector`, like the rest.
        cameras: a rig that has the named views.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        settings: see :class:`ProjectSettings`.

    Raises:
        UsageError: no reference, or a view that the rig does not have.
    """
    uv_layers = [maps] if isinstance(maps, SurfaceMaps) else list(maps)
    projector = Projector(
        surface,
        references,
        cameras,
        size=max(uv_layers[0].size),
        rasterizer=rasterizer,
        settings=settings,
    )
    return projector.texture(uv_layers)


class Projector:
    """Paints the textures of a mesh from pictures of it; what is the same for all is done once.

    Args:
        surface: everything that can hide something.
        references: view name -> picture ``[3, H, W]`` or with alpha ``[4, H, W]``, in [0, 1].
        cameras: a rig that has the named views.
        size: edge of the largest texture in texels.
        rasterizer: from :func:`~seqtex_geometry.rasterize.choose_rasterizer`.
        settings: see :class:`ProjectSettings`.
        keep: what was found out about the pictures, since several textures are to be painted.

    Raises:
        UsageError: no reference, or a view that the rig does not have.
    """

    def __init__(
        self,
        surface: SurfaceTensors,
        references: Mapping[str, Tensor],
        cameras: CameraRig,
        *,
        size: int,
        rasterizer: Rasterizer,
        settings: ProjectSettings | None = None,
        keep: bool = False,
    ) -> None:
        if not references:
            raise UsageError("references", expected="at least one picture", got="none")
        self._surface = surface
        self._settings = settings or ProjectSettings()
        self._mirrors = find_mirrors(surface) if self._settings.mirror == "auto" else ()
        if self._mirrors:
            _LOG.info(
                "the mesh mirrors itself across %s: unseen parts copy", ", ".join(self._mirrors)
            )
        pictures = [_reduced(picture, size) for picture in references.values()]
        shown = cameras.select(*references)
        self._views = [
            PictureViews(
                surface,
                pictures,
                shown.mirrored(*axes),
                rasterizer=rasterizer,
                settings=self._settings.backproject,
                keep=keep,
            )
            for axes in _useful_mirrors(shown, self._mirrors)
        ]

    def texture(
        self, layers: Sequence[SurfaceMaps], region: Tensor | None = None
    ) -> ProjectedTexture:
        """One texture.

        Args:
            layers: UV maps (F = 1) of the faces to paint; several where faces share texels
                (:func:`~seqtex_geometry.maps.uv_map_layers`), and a texel is seen if any of its
                faces is.
            region: number of the region that each face belongs to, ``[T]``, if what is not seen is
                to be filled from its own region only (:func:`~.regions.face_regions`).
        """
        painted = [one for views in self._views for one in backproject_layers(views, layers)]
        color, inside, trust = _stacked(painted)
        first = layers[0]
        mask = first.hit[0]
        part = connected_parts(self._surface)[first.face_idx[0][mask]]
        numbers = torch.zeros_like(part)
        if region is not None:
            numbers = region.to(numbers.device)[first.face_idx[0][mask]]
        texture = torch.zeros_like(color)
        shown, weight = color.permute(1, 2, 0)[mask], trust[mask]
        points = _Points(
            position=first.position.detach()[0][mask],
            normal=normalize(first.normal.detach()[0][mask], dim=-1),
            part=part,
            stain=self._stained(shown, weight, part, numbers, inside[mask]),
        )
        texture[:, mask] = _by_region(points, shown, weight, numbers, self._settings.fill).T
        seen = torch.stack([one.seen for one in painted[: len(layers)]]).any(0) & mask
        return ProjectedTexture(
            texture=pad_seams(texture, mask),
            seen=seen,
            mirrored=(trust > 0) & ~seen & mask,
            mask=mask,
            share=_shown_share(trust) * mask,
            mirrors=self._mirrors,
        )

    def _stained(
        self, color: Tensor, trust: Tensor, part: Tensor, region: Tensor, inside: Tensor
    ) -> Tensor:
        """Colours that are not to spread, ``[N]``; see :func:`~.stains.stained`."""
        if self._settings.fill == "none" or not len(part):
            return torch.zeros_like(trust, dtype=torch.bool)
        own = numbered_pairs(part, region)
        return stained(color, own, trust >= _SOURCE_TRUST, inside)


def _reduced(picture: Tensor, size: int) -> Tensor:
    """The picture, smaller if it has far more pixels than a texture of ``size`` can show."""
    edge = max(_MIN_PICTURE, 2 * size)
    if max(picture.shape[1:]) <= edge:
        return picture
    scale = edge / max(picture.shape[1:])
    height, width = (max(1, round(side * scale)) for side in picture.shape[1:])
    alpha = picture[3:]
    known = picture[:3] * alpha if len(alpha) else picture
    small = interpolate(
        torch.cat([known, alpha])[None], (height, width), mode="bilinear", antialias=True
    )[0]
    if not len(alpha):
        return small
    return torch.cat([small[:3] / small[3:].clamp(min=1e-6), small[3:]]).clamp(0, 1)


def _useful_mirrors(cameras: CameraRig, axes: tuple[Axis, ...]) -> list[tuple[Axis, ...]]:
    """No mirror first, then those from which some camera lands in a new place."""
    centers = cameras.centers()
    places = [centers]
    useful: list[tuple[Axis, ...]] = [()]
    for part in _subsets(axes)[1:]:
        moved = cameras.mirrored(*part).centers()
        distance = torch.cdist(moved, torch.cat(places)).amin(1)
        if bool((distance > 0.05 * torch.linalg.vector_norm(centers, dim=1)).any()):
            useful.append(part)
            places.append(moved)
    return useful


def _subsets(axes: tuple[Axis, ...]) -> list[tuple[Axis, ...]]:
    """All subsets, smaller ones first: no mirror, one mirror, both."""
    return [part for size in range(len(axes) + 1) for part in combinations(axes, size)]


def _stacked(layers: list[BackProjection]) -> tuple[Tensor, Tensor, Tensor]:
    """Colour ``[3, h, w]``, distance from outlines and trust ``[h, w]``; earlier layers on top."""
    color = torch.zeros_like(layers[0].color)
    inside = torch.zeros_like(layers[0].inside)
    trust = torch.zeros_like(layers[0].weight)
    for layer in layers:
        share = layer.weight * (1.0 - trust)
        color = color + layer.color * share
        inside = inside + layer.inside * share
        trust = trust + share
    total = trust.clamp(min=1e-8)
    return color / total, inside / total, trust


def _shown_share(trust: Tensor) -> Tensor:
    return (trust / _FULL_TRUST).clamp(max=1.0)


class _Points(NamedTuple):
    """Texels as points of the surface.

    Attributes:
        position: ``[N, 3]``.
        normal: unit, ``[N, 3]``.
        part: of the mesh, ``[N]``.
        stain: True where the colour may be another part's, ``[N]``.
    """

    position: Tensor
    normal: Tensor
    part: Tensor
    stain: Tensor

    def rows(self, rows: Tensor) -> _Points:
        """Some of the points."""
        return _Points(*(values[rows] for values in self))


def _by_region(points: _Points, color: Tensor, trust: Tensor, region: Tensor, fill: Fill) -> Tensor:
    """Colours of all texels, those of a region filled from what was seen of it."""
    if fill == "none":
        return _completed(points, color, trust, fill)

    def completed(rows: Tensor) -> Tensor:
        return _completed(points.rows(rows), color[rows], trust[rows], fill)

    return fill_by_region(points.position, color, trust > 0, region, completed)


def _completed(points: _Points, color: Tensor, trust: Tensor, fill: Fill) -> Tensor:
    """Colours of all texels: those seen, blended into the fill where trust is low."""
    if fill == "none":
        return color * (trust > 0)[:, None]
    position, normal, part, stain = points
    known = (trust >= _SOURCE_TRUST) & ~stain
    if not bool(known.any()):
        known = trust > 0
    if fill == "smooth":
        filled = fill_smooth_surface(position, color, known, normal=normal, part=part)
    else:
        filled = fill_nearest_surface(position, color, known, normal=normal)
    share = _shown_share(trust)[:, None]
    return color * share + filled * (1 - share)
