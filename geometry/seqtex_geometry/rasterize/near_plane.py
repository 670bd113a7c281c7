"""Clipping triangles at the near plane, for backends that rasterize projected triangles."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_near(corners: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """The parts of triangles that are not nearer than ``near``, as triangles.

    A triangle with one corner in front keeps its slot; one with two corners in front becomes a
    quadrilateral, whose second half is appended. Orientation is kept.

    Args:
        corners: camera coordinates with depth last, ``[F, T, 3, 3]``.
        near: positive depth.

    Returns:
        Triangles ``[F, T + S, 3, 3]``, NaN where nothing is left, and the triangle that each came
        from, ``[T + S]`` int64. S is 0 where no triangle needs a second half in any camera.
    """
    count = corners.shape[1]
    own = torch.arange(count, device=corners.device)
    front = corners[..., 2] >= near
    in_front = front.sum(-1)
    # Turn each triangle so that the odd corner out (alone in front or alone behind) comes first.
    odd = torch.where((in_front == 1)[..., None], front, ~front)
    first = odd.int().argmax(-1)
    order = (first[..., None] + torch.arange(3, device=corners.device)) % 3
    turned = corners.gather(2, order[..., None].expand(corners.shape))
    a, b, c = turned.unbind(2)
    ab, ac = _crossing(a, b, near), _crossing(a, c, near)
    nothing = torch.full_like(corners, torch.nan)
    case = in_front[..., None, None]
    kept = torch.where(case == 3, corners, nothing)
    kept = torch.where(case == 1, torch.stack([a, ab, ac], dim=2), kept)
    kept = torch.where(case == 2, torch.stack([ab, b, c], dim=2), kept)
    second = torch.nonzero((in_front == 2).any(0))[:, 0]
    if second.numel() == 0:
        return kept, own
    other = torch.where(case == 2, torch.stack([ab, c, ac], dim=2), nothing)
    return torch.cat([kept, other[:, second]], dim=1), torch.cat([own, second])


def _crossing(a: Tensor, b: Tensor, near: float) -> Tensor:
    """Where the edges ``a b`` meet the near plane; exact in depth."""
    share = (near - a[..., 2:]) / (b[..., 2:] - a[..., 2:])
    point = a + share * (b - a)
    return torch.cat([point[..., :2], torch.full_like(point[..., 2:], near)], dim=-1)
