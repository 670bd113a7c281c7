"""References against the mesh: does the image show the object as the view sees it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seqtex_core.errors import InputError
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import view_maps
from seqtex_geometry.rasterize import Rasterizer
from seqtex_geometry.surface import SurfaceTensors

from .references import ReferenceImage, plain_background

MaskSource = Literal["alpha", "silhouette"]
_COMPARED_SIZE = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A reference image that fits its view, at its own resolution.

    Args:
        view: view name.
        view_index: index of the view in the rig.
        rgb: sRGB, ``[3, H, W]`` float32 in [0, 1].
        mask: share of each pixel that shows the object, ``[1, H, W]`` float32 in [0, 1].
        mask_source: the image's own alpha, or the mesh's silhouette in that view.
        iou: overlap of the image's silhouette with the view's; ``None`` if the image is opaque and
            its background is not plain, so that it has no silhouette to compare.
        name: file name.
        reduced_from: edge in pixels before it was reduced; ``None`` if it is as given.
    """

    view: str
    view_index: int
    rgb: Tensor
    mask: Tensor
    mask_source: MaskSource
    iou: float | None
    name: str
    reduced_from: int | None = None

    def __str__(self) -> str:
        overlap = "not measured (no alpha, no plain background)"
        if self.iou is not None:
            overlap = f"{self.iou:.3f}"
        size = ""
        if self.reduced_from is not None:
            size = f" (reduced from {self.reduced_from} to {self.rgb.shape[-1]} pixels)"
        return f"{self.name}{size}, mask from {self.mask_source}, silhouette IoU {overlap}"


def fit_reference(
    image: ReferenceImage,
    surface: SurfaceTensors,
    cameras: CameraRig,
    *,
    rasterizer: Rasterizer,
    min_iou: float,
) -> Reference:
    """``image`` as tensors with its mask, if its silhouette fits its view.

    An image with alpha brings its own mask. An opaque one gets the mesh's silhouette; its own, if
    the background is plain, is only compared.

    Args:
        image: decoded.
        surface: the working copy; its device is where the tensors go.
        cameras: a rig that has the image's view.
        rasterizer: draws the silhouettes.
        min_iou: least overlap that is accepted, intersection over union.

    Raises:
        InputError: the overlap is smaller; names the view that fits better, if one does.
    """
    own = _own_silhouette(image)
    iou = None
    if own is not None:
        own = own.to(surface.device)
        iou = _overlap(own, surface, cameras.select(image.view), rasterizer)
        if iou < min_iou:
            overlaps = {
                name: _overlap(own, surface, cameras.select(name), rasterizer)
                for name in cameras.names
            }
            raise _misfit(image, overlaps, min_iou)
    if image.alpha is not None:
        mask = torch.tensor(image.alpha).to(surface.device).float()[None] / 255.0
    else:
        camera = cameras.select(image.view)
        mask = view_maps(
            surface, camera, height=image.size, width=image.size, rasterizer=rasterizer
        ).mask
    rgb = torch.tensor(image.rgb).to(surface.device).permute(2, 0, 1).float() / 255.0
    return Reference(
        view=image.view,
        view_index=cameras.index(image.view),
        rgb=rgb.contiguous(),
        mask=mask,
        mask_source="silhouette" if image.alpha is None else "alpha",
        iou=iou,
        name=image.name,
        reduced_from=image.reduced_from,
    )


def silhouette_iou(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two coverage images of one shape, values in [0, 1]."""
    union = float(torch.maximum(first, second).sum())
    return float(torch.minimum(first, second).sum()) / union if union > 0 else 0.0


def _own_silhouette(image: ReferenceImage) -> Tensor | None:
    """Coverage by the image itself at no more than the compared size, ``[S, S]``."""
    if image.alpha is not None:
        coverage = torch.tensor(image.alpha).float() / 255.0
    else:
        background = plain_background(image.rgb)
        if background is None or bool(background.all()):
            return None
        coverage = 1.0 - torch.from_numpy(background).float()
    if image.size <= _COMPARED_SIZE:
        return coverage
    resized: Tensor = torch.nn.functional.interpolate(
        coverage[None, None], size=(_COMPARED_SIZE, _COMPARED_SIZE), mode="area"
    )[0, 0]
    return resized


def _overlap(
    own: Tensor, surface: SurfaceTensors, camera: CameraRig, rasterizer: Rasterizer
) -> float:
    size = own.shape[-1]
    maps = view_maps(surface, camera, height=size, width=size, rasterizer=rasterizer, supersample=2)
    return silhouette_iou(own, maps.mask[0])


def _misfit(image: ReferenceImage, overlaps: dict[str, float], min_iou: float) -> InputError:
    best = max(overlaps, key=lambda name: overlaps[name])
    remedy = "Render the view with `seqtex render` to see what is expected; check --up and --front."
    if best != image.view and overlaps[best] >= min_iou:
        remedy = f"It fits the view {best!r} ({overlaps[best]:.3f}): name that one. Or: {remedy}"
    return InputError(
        f"reference {image.name}",
        expected=f"a silhouette that overlaps the {image.view} view's with IoU >= {min_iou:.2f} "
        "(--min-iou)",
        got=f"IoU {overlaps[image.view]:.3f}",
        remedy=remedy,
    )
