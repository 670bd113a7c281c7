"""Reading colours from images between pixel centres, and the sRGB transfer curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Wrap = Literal["repeat", "clamp"]


def bilinear(image: Tensor, points: Tensor, *, wrap: Wrap = "clamp") -> Tensor:
    """Values ``[N, C]`` of ``image [C, H, W]`` at ``points [N, 2]`` (column, row, in pixels).

    Args:
        image: differentiable.
        points: the first pixel's centre is at 0.5.
        wrap: what lies beyond the border: the other side, or the border pixel.
    """
    _, height, width = image.shape
    base = (points - 0.5).floor()
    column_share, row_share = (points - 0.5 - base).to(image.dtype).unbind(-1)
    column, row = base.long().unbind(-1)
    result = image.new_zeros(())
    for row_step, row_weight in ((0, 1.0 - row_share), (1, row_share)):
        y = _wrapped(row + row_step, height, wrap)
        for column_step, column_weight in ((0, 1.0 - column_share), (1, column_share)):
            x = _wrapped(column + column_step, width, wrap)
            result = result + image[:, y, x] * (row_weight * column_weight)
    return result.T


def bicubic(image: Tensor, points: Tensor) -> Tensor:
    """Values ``[N, C]`` of ``image [C, H, W]`` at ``points [N, 2]``, Catmull-Rom, clamped border.

    Sharper than :func:`bilinear` when magnified; may overshoot the image's range.
    """
    _, height, width = image.shape
    base = (points - 0.5).floor()
    share = (points - 0.5 - base).to(image.dtype)
    column, row = base.long().unbind(-1)
    column_weights, row_weights = _catmull_rom(share[:, 0]), _catmull_rom(share[:, 1])
    flat = image.reshape(image.shape[0], -1)
    result = image.new_zeros(image.shape[0], points.shape[0])
    for j in range(4):
        y = _wrapped(row + (j - 1), height, "clamp") * width
        for i in range(4):
            x = _wrapped(column + (i - 1), width, "clamp")
            result = result + flat[:, y + x] * (row_weights[j] * column_weights[i])
    return result.T


def _catmull_rom(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four neighbours at offset ``t`` in [0, 1) from the second."""
    return (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )


def sample_uv(levels: Sequence[Tensor], uvs: Tensor, level: Tensor | None = None) -> Tensor:
    """Values ``[N, C]`` of a texture at UV coordinates ``[N, 2]``, repeating.

    Args:
        levels: the texture ``[C, H, W]``, row 0 at v = 1, then its halvings (``mip_levels``).
        uvs: v up.
        level: mip level per point, ``[N]``, 0 is full size; trilinear between levels. Without it
            the full size is read.
    """
    _, height, width = levels[0].shape
    points = torch.stack([uvs[:, 0] * width, (1.0 - uvs[:, 1]) * height], dim=-1)
    if level is None:
        return bilinear(levels[0], points, wrap="repeat")
    return sample_levels(levels, points, level, wrap="repeat")


def sample_levels(
    levels: Sequence[Tensor], points: Tensor, level: Tensor, *, wrap: Wrap = "clamp"
) -> Tensor:
    """Values ``[N, C]``, trilinear between mip levels.

    Args:
        levels: the image ``[C, H, W]`` and its halvings (``mip_levels``).
        points: (column, row) in pixels of the full size, ``[N, 2]``.
        level: mip level per point, ``[N]``; clamped to those there are.
        wrap: see :func:`bilinear`.
    """
    if bool((level <= 0).all()):
        return bilinear(levels[0], points, wrap=wrap)
    level = level.clamp(0, len(levels) - 1)
    full = points.new_tensor(levels[0].shape[:0:-1])
    result = levels[0].new_zeros(points.shape[0], levels[0].shape[0])
    for index, image in enumerate(levels):
        weight = (1.0 - (level - index).abs()).clamp(min=0).to(image.dtype)
        rows = torch.nonzero(weight)[:, 0]
        scale = points.new_tensor(image.shape[:0:-1]) / full
        values = bilinear(image, points[rows] * scale, wrap=wrap)
        result = result.index_add(0, rows, values * weight[rows, None])
    return result


def mip_levels(texture: Tensor) -> list[Tensor]:
    """``texture [C, H, W]`` and its halvings by 2 x 2 means, until a side is 1.

    An odd side loses its last row or column.
    """
    levels = [texture]
    while min(levels[-1].shape[1:]) > 1:
        levels.append(torch.nn.functional.avg_pool2d(levels[-1][None], 2)[0])
    return levels


def srgb_to_linear(encoded: Tensor) -> Tensor:
    """Light intensity of sRGB-encoded values in [0, 1]."""
    return torch.where(
        encoded <= 0.04045, encoded / 12.92, ((encoded.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(linear: Tensor) -> Tensor:
    """The sRGB encoding of light intensities in [0, 1]."""
    return torch.where(
        linear <= 0.0031308,
        linear * 12.92,
        1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055,
    )


def _wrapped(index: Tensor, size: int, wrap: Wrap) -> Tensor:
    return index % size if wrap == "repeat" else index.clamp(0, size - 1)
