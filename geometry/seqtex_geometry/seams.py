"""Padding around UV charts, so that filtering and mip levels never read the background."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from seqtex_core.errors import UsageError

_BORDER = 4.0  # texels around a chart that continue its border colours


def pad_seams(texture: Tensor, mask: Tensor) -> Tensor:
    """The texture with every texel outside the charts filled from the charts.

    The texels next to a chart take the nearest charted colour, so that bilinear lookups at its
    border see no other. All others take the mean of the smallest mip texel around them that holds
    any colour (pull-push), so that a texel of any mip level is the mean of charted colours only.

    Args:
        texture: ``[C, H, W]``.
        mask: True on charted texels, ``[H, W]``.

    Returns:
        ``[C, H, W]``; charted texels unchanged; unchanged altogether if nothing is charted.

    Raises:
        UsageError: shapes that do not fit.
    """
    if texture.ndim != 3 or mask.shape != texture.shape[1:] or mask.dtype != torch.bool:
        raise UsageError(
            "texture and mask",
            expected="[C, H, W] and boolean [H, W]",
            got=f"{list(texture.shape)} and {mask.dtype} {list(mask.shape)}",
        )
    if bool(mask.all()) or not bool(mask.any()):
        return texture
    bordered, known = _continue_border(texture, mask)
    return torch.where(mask, texture, _pull_push(bordered, known))


def extend_nearest(image: Tensor, known: Tensor, *, reach: float = np.inf) -> Tensor:
    """``image`` whose unknown pixels take the colour of the nearest known one.

    Args:
        image: ``[C, H, W]``.
        known: True where the image counts, ``[H, W]``; if nowhere, the image is returned as it is.
        reach: farthest distance, in pixels; beyond it the image stays.
    """
    if bool(known.all()) or not bool(known.any()):
        return image
    distance, (rows, columns) = distance_transform_edt(~known.cpu().numpy(), return_indices=True)
    row = torch.from_numpy(rows).long().to(image.device)
    column = torch.from_numpy(columns).long().to(image.device)
    near = torch.from_numpy(distance <= reach).to(image.device)
    return torch.where(near, image[:, row, column], image)


def _continue_border(texture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    distance = distance_transform_edt(~mask.cpu().numpy())
    known = torch.from_numpy(distance <= _BORDER).to(mask.device)
    return extend_nearest(texture, mask, reach=_BORDER), known


def _pull_push(texture: Tensor, known: Tensor) -> Tensor:
    """Unknown texels take the mean of the smallest power-of-two block that knows any colour.

    A block's mean weighs its four quarters equally, as mip levels do, unknown quarters left out.
    """
    _, height, width = texture.shape
    if bool(known.all()):
        return texture
    odd = (0, width % 2, 0, height % 2)
    color, weight = pad(texture, odd), pad(known[None].to(texture.dtype), odd)
    total = avg_pool2d(weight, 2)
    mean = avg_pool2d(color * weight, 2) / total.clamp(min=0.25)
    coarse = _pull_push(mean, total[0] > 0)
    fine = interpolate(coarse[None], scale_factor=2.0, mode="nearest")[0, :, :height, :width]
    return torch.where(known, texture, fine)
