"""The smallest data: one sphere in closed form, coloured anew for every sample.

No mesh, no rasterizer, no files: for trying out a configuration, and for tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seqtex_core.tasks import TEXTURE, VIEWS

from .batch import GroupImages, SourceContext, TrainingBatch, check_options
from .randomness import generator_for

_AZIMUTHS = (-90.0, 0.0, 90.0, 180.0)
_RADIUS = 0.8


class SphereSource:
    """A sphere with a smooth random colour field; see ``BatchSource``.

    Args:
        options: none are known.
        context: sizes and seed.
    """

    def __init__(self, options: Mapping[str, Any], context: SourceContext) -> None:
        check_options("sphere", options, ())
        self._context = context
        self._maps = {
            VIEWS: _view_maps(context.view_size),
            TEXTURE: _uv_maps(context.uv_size),
        }

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        """Samples by number; ``geo2mv`` gets shaded views."""
        numbers = [int(index) for index in indices]
        return self._make(numbers, names=[TEXTURE, VIEWS], lit=task == "geo2mv")

    def preview(self, count: int) -> TrainingBatch:
        """Samples with negative numbers."""
        return self._make([-1 - k for k in range(count)], names=[TEXTURE, VIEWS], lit=False)

    def _make(self, numbers: Sequence[int], *, names: Sequence[str], lit: bool) -> TrainingBatch:
        fields = [_colour_field(self._context.seed, number) for number in numbers]
        groups = {}
        for name in names:
            position, mask = self._maps[name]
            images = torch.stack([_paint(field, position, lit=lit) for field in fields]) * mask
            expand = (len(numbers), -1, -1, -1, -1)
            groups[name] = GroupImages(
                images=images.to(self._context.device),
                position=position.expand(expand).to(self._context.device),
                normal=(position / _RADIUS).expand(expand).to(self._context.device),
                mask=mask.expand(expand).to(self._context.device),
            )
        return TrainingBatch(groups=groups, geometry_keys=["sphere"] * len(numbers))


def _colour_field(seed: int, number: int) -> tuple[Tensor, Tensor]:
    draw = generator_for(seed, "data", number)
    slope = torch.randn(3, 3, generator=draw)
    return slope, torch.randn(3, generator=draw)


def _paint(field: tuple[Tensor, Tensor], position: Tensor, *, lit: bool) -> Tensor:
    slope, offset = field
    waves = torch.einsum("cd,fdhw->fchw", 2.0 * slope, position) + offset[:, None, None]
    colours = 0.5 + 0.5 * torch.sin(waves)
    if lit:
        colours = colours * (0.6 + 0.4 * position[:, 2:3] / _RADIUS)
    return colours


def _view_maps(size: int) -> tuple[Tensor, Tensor]:
    """Positions ``[4, 3, H, W]`` and mask ``[4, 1, H, W]`` of an orthographic sphere."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    up, right = torch.meshgrid(-axis, axis, indexing="ij")
    depth2 = _RADIUS**2 - up**2 - right**2
    mask = (depth2 > 0).float()
    depth = depth2.clamp(min=0).sqrt()
    frames = []
    for degrees in _AZIMUTHS:
        angle = math.radians(degrees)
        toward = (math.cos(angle), math.sin(angle))
        x = depth * toward[0] - right * toward[1]
        y = depth * toward[1] + right * toward[0]
        frames.append(torch.stack([x, y, up]) * mask)
    return torch.stack(frames), mask.expand(4, 1, size, size).clone()


def _uv_maps(size: int) -> tuple[Tensor, Tensor]:
    """Positions ``[1, 3, H, W]`` and mask of a latitude-longitude chart with a margin."""
    axis = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    margin = 1 / 16
    mask = ((u > margin) & (u < 1 - margin) & (v > margin) & (v < 1 - margin)).float()
    turn = (u - margin) / (1 - 2 * margin) * 2 * math.pi
    tilt = (0.5 - (v - margin) / (1 - 2 * margin)) * math.pi
    x, y = tilt.cos() * turn.cos(), tilt.cos() * turn.sin()
    position = _RADIUS * torch.stack([x, y, tilt.sin()]) * mask
    return position[None], mask[None, None]
