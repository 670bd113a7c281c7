"""How alike two pictures are on some of their pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from seqtex_core.errors import UsageError

MAX_PSNR = 60.0
"""dB at which PSNR is cut: an exact copy would be infinite and would spoil every mean."""
_WINDOW, _WIDTH = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(image: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, at most ``MAX_PSNR``.

    Args:
        image: ``[3, H, W]`` or ``[F, 3, H, W]`` in [0, 1]; the peak is 1.
        truth: likewise.
        mask: the pixels that count, ``[H, W]`` or ``[F, H, W]`` bool.

    Raises:
        UsageError: shapes that do not fit, or no pixel to measure.
    """
    _check(image, truth, mask)
    squared = (image.double() - truth.double()).square().mean(dim=-3)
    error = float(squared[mask].mean())
    return min(MAX_PSNR, -10.0 * float(torch.tensor(max(error, 1e-30)).log10()))


def ssim(image: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Structural similarity, the mean over the pixels that count and the three colours.

    Windows are Gaussian, 11 pixels wide with deviation 1.5. Only pixels that count have weight in
    them, so neither the background nor unmeasured parts of the surface enter.

    Args:
        image: ``[3, H, W]`` in [0, 1].
        truth: likewise.
        mask: ``[H, W]`` bool.

    Raises:
        UsageError: shapes that do not fit, or no pixel to measure.

    Source: Wang et al. 2004, with K1 = 0.01, K2 = 0.03.
    """
    _check(image, truth, mask)
    x, y = image.double(), truth.double()
    weight = mask.double()[None, None]
    moments = torch.cat([x, y, x * x, y * y, x * y])[:, None] * weight
    mass = _blurred(weight).clamp(min=1e-12)
    mean_x, mean_y, xx, yy, xy = (_blurred(moments) / mass)[:, 0].split(3)
    var_x = (xx - mean_x.square()).clamp(min=0)
    var_y = (yy - mean_y.square()).clamp(min=0)
    covariance = xy - mean_x * mean_y
    light = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    shape = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float((light * shape)[:, mask].mean())


def _blurred(images: Tensor) -> Tensor:
    """``[N, 1, H, W]`` under the window, nothing beyond the border."""
    offsets = torch.arange(_WINDOW, dtype=images.dtype) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _WIDTH).square())
    window = window / window.sum()
    half = _WINDOW // 2
    images = conv2d(images, window.view(1, 1, -1, 1), padding=(half, 0))
    return conv2d(images, window.view(1, 1, 1, -1), padding=(0, half))


def _check(image: Tensor, truth: Tensor, mask: Tensor) -> None:
    shape = tuple(image.shape)
    fits = shape == tuple(truth.shape) and len(shape) in (3, 4) and shape[-3] == 3
    fits = fits and tuple(mask.shape) == (*shape[:-3], *shape[-2:]) and mask.dtype == torch.bool
    if not fits:
        raise UsageError(
            "pictures to compare",
            expected="two of [(F,) 3, H, W] and a boolean mask [(F,) H, W]",
            got=f"{shape}, {tuple(truth.shape)} and {mask.dtype} {tuple(mask.shape)}",
        )
    if not bool(mask.any()):
        raise UsageError("mask", expected="at least one pixel to measure", got="none")
