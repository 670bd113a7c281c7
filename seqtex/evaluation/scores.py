"""The measures of an evaluation: what each method's result is worth on one object."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .cases import EvaluationCase
from .measures import psnr, ssim
from .methods import MadeTexture

MEASURES: Mapping[str, str] = {
    "psnr_all": "PSNR of the texture in dB (cut at 60), all texels with surface",
    "psnr_unseen": "PSNR of the texture in dB, texels that the reference does not show",
    "ssim_all": "SSIM of the texture, all texels with surface",
    "ssim_unseen": "SSIM of the texture, texels that the reference does not show",
    "view_agreement": "cross-view consistency: PSNR in dB of the views rendered from the made "
    "texture against the views that the method made itself, the given view left out; only methods "
    "that make views. The row of the truth is the limit that the rendering allows",
    "reference_agreement": "PSNR in dB of the reference's view rendered from the made texture "
    "against the reference; the row of the truth is the limit that the rendering allows",
}
Scores = dict[str, float | None]


def scores(case: EvaluationCase, made: MadeTexture) -> Scores:
    """Every measure of one method on one object; ``None`` where it does not apply."""
    truth, texture = case.images.uv, made.texture
    hidden = case.unseen if case.hides_enough else None
    rendered = case.renderer(texture)
    inside = case.maps.view_mask[:, 0] > 0.999  # pixels without background
    given = case.given_view
    others = [view for view in range(len(rendered)) if view != given]
    return {
        "psnr_all": psnr(texture, truth, case.charted),
        "psnr_unseen": None if hidden is None else psnr(texture, truth, hidden),
        "ssim_all": ssim(texture, truth, case.charted),
        "ssim_unseen": None if hidden is None else ssim(texture, truth, hidden),
        "view_agreement": None
        if made.views is None
        else _agreement(rendered[others], made.views[others], inside[others]),
        "reference_agreement": _agreement(rendered[given], case.reference, inside[given]),
    }


def _agreement(rendered: Tensor, pictures: Tensor, inside: Tensor) -> float | None:
    if not bool(torch.any(inside)):
        return None
    return psnr(rendered, pictures, inside)
