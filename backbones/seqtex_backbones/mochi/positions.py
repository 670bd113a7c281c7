"""Where Mochi puts its tokens: learned frequencies, positions that any grid spreads over one area.

A head's angle is a learned mixture of frame, row and column. Rows and columns are measured from
the middle of the grid, in a unit that gives every grid the same area: a texture twice as fine as
the views lies between their tokens, not beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqtex_core.frames import Grid, TokenLayout
from seqtex_core.rope import Rope


class MochiPositions(nn.Module):
    """Rotary tables of every head.

    Args:
        pos_frequencies: angle per unit of frame, row and column, ``[3, N, D/2]``.
        area: rows times columns that every grid is spread over.
    """

    def __init__(self, pos_frequencies: nn.Parameter, *, area: int) -> None:
        super().__init__()
        self.pos_frequencies = pos_frequencies
        self.area = area

    def tables(self, layout: TokenLayout) -> dict[str, Rope]:
        """Table of every stream, ``[L, N, D/2]``, rows in the order of its tokens.

        In fp32 and in the original's order, as large angles feel every rounding.
        """
        tables: dict[str, Rope] = {}
        for stream, rows in layout.streams.items():
            parts = []
            for group in rows.groups:
                part = self._table(group.grid, layout.first_frame(group.name))
                keep = layout.keep.get(group.name)
                parts.append(part if keep is None else part.rows(keep.to(part.cos.device)))
            tables[str(stream)] = Rope.cat(parts)
        return tables

    def _table(self, grid: Grid, first_frame: int) -> Rope:
        positions = self._positions(grid, first_frame)
        angles = torch.einsum("nd,dhf->nhf", positions, self.pos_frequencies.float())
        return Rope(cos=angles.cos(), sin=angles.sin())

    def _positions(self, grid: Grid, first_frame: int) -> Tensor:
        """Frame, row and column of every token, ``[F*H*W, 3]``, width fastest."""
        device = self.pos_frequencies.device
        unit = (self.area / (grid.height * grid.width)) ** 0.5
        frames = torch.arange(grid.frames, dtype=torch.float32, device=device) + first_frame
        axes = [frames]
        for count in (grid.height, grid.width):
            half = count * unit / 2
            edges = torch.linspace(-half, half, count + 1, dtype=torch.float32, device=device)
            axes.append((edges[:-1] + edges[1:]) / 2)
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
