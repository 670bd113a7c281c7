"""Where each latent texel lies on the surface, for models with a copy head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize


def surface_points(position: Tensor, normal: Tensor, mask: Tensor, *, factor: int) -> Tensor:
    """Mean position and unit mean normal of what each latent texel covers, ``[B, 6, F, h, w]``.

    Args:
        position: of the surface, ``[B, F, 3, H, W]``; 0 where there is none.
        normal: likewise.
        mask: covered share of the pixel, ``[B, F, 1, H, W]``.
        factor: pixels of a latent texel, per axis.
    """
    frames = torch.cat([position, normal, mask], dim=2)
    pooled = avg_pool2d(frames.flatten(0, 1), factor).unflatten(0, frames.shape[:2])
    place, facing, share = pooled.transpose(1, 2).split([3, 3, 1], dim=1)
    return torch.cat([place / share.clamp(min=1e-6), normalize(facing, dim=1)], dim=1)
