"""Where CogVideoX puts its tokens: rotary tables (5B, 1.5) or added sinusoids (2B)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.frames import Grid, TokenLayout


@dataclass(frozen=True, kw_only=True)
class SinusoidalPositions:
    """Sinusoids of frame, column and row, added to the tokens before the first block.

    The model was trained on one grid size. Every group is spread over the extent of the first
    group's grid, so that a texture twice as fine as the views has positions between theirs, not
    beyond; grids of the first group's own size count rows and columns, as the original does.

    Args:
        dim: width of the residual stream; a multiple of 16.
        spatial_scale: rows and columns per unit of position.
        temporal_scale: frames per unit of position.

    Raises:
        UsageError: a width that cannot be split, or scales that are not positive.
    """

    dim: int
    spatial_scale: float = 1.875
    temporal_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.dim % 16:
            raise UsageError("dim", expected="a multiple of 16", got=str(self.dim))
        if not min(self.spatial_scale, self.temporal_scale) > 0:
            raise UsageError("interpolation scale", expected="positive numbers", got=str(self))

    def table(self, layout: TokenLayout) -> dict[str, Tensor]:
        """Rows ``[L, dim]`` of every stream, fp32 on CPU, in the order of its tokens."""
        reference = layout.groups[0].grid
        tables: dict[str, Tensor] = {}
        for stream, rows in layout.streams.items():
            parts = []
            for group in rows.groups:
                part = self._of_grid(group.grid, reference, layout.first_frame(group.name))
                keep = layout.keep.get(group.name)
                parts.append(part if keep is None else part[keep.cpu()])
            tables[str(stream)] = torch.cat(parts)
        return tables

    def _of_grid(self, grid: Grid, reference: Grid, first_frame: int) -> Tensor:
        size = (grid.frames, grid.height, grid.width)
        frames = _count(grid.frames) + first_frame
        rows = _count(grid.height) * (reference.height / grid.height)
        columns = _count(grid.width) * (reference.width / grid.width)
        spatial, temporal = 3 * self.dim // 8, self.dim // 4
        parts = [
            _sinusoid(frames / self.temporal_scale, temporal)[:, None, None],
            _sinusoid(columns / self.spatial_scale, spatial)[None, None],
            _sinusoid(rows / self.spatial_scale, spatial)[None, :, None],
        ]
        full = [part.expand(*size, -1) for part in parts]
        return torch.cat(full, dim=-1).reshape(grid.num_tokens, self.dim).float()


def _sinusoid(positions: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of every position, ``[N, dim]``, fp64."""
    half = torch.arange(dim // 2, dtype=torch.float64, device="cpu")
    angles = torch.outer(positions, 1e4 ** (-half / (dim // 2)))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _count(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device="cpu")
