"""Where Cosmos puts its tokens: slowed rotary tables, and learned embeddings in some models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, TokenLayout
from seqtex_core.rope import (
    GridSpread,
    Rope,
    RopePolicy,
    RopeSpec,
    rope_table,
    spread_policy,
    wan_axis_dims,
)

BASE_FPS = 24.0
_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class CosmosPositions:
    """Positions in tokens and, for video models, in frames of a clip of 24 a second.

    Args:
        head_dim: channels per head.
        rope_scale: for frames, rows and columns, how much larger than the grids of an earlier
            training stage the grids of this model were. The base of the frequencies grows so that
            the slowest pair turns that much more slowly (NTK).
        fps: frames per second that the model is told, or ``None`` for images, whose frames count
            whole.
        spread: rows and columns of groups that differ in size. ``"extrapolate"``: every token
            counts one, the model's own coordinates for a larger picture; ``"interpolate"``: every
            group lies over the first one.

    Raises:
        UsageError: heads too narrow for the scaling, or numbers that are not positive.
    """

    head_dim: int
    rope_scale: tuple[float, float, float]
    fps: float | None = None
    spread: GridSpread = "extrapolate"

    def __post_init__(self) -> None:
        if self.head_dim % 2 or min(self.axis_dims) < 4:
            raise UsageError(
                "attention_head_dim", expected="an even number >= 12", got=str(self.head_dim)
            )
        if len(self.rope_scale) != 3 or not min(self.rope_scale) > 0:
            raise UsageError("rope_scale", expected="3 positive numbers", got=str(self.rope_scale))
        if self.fps is not None and not self.fps > 0:
            raise UsageError("fps", expected="None or a positive number", got=str(self.fps))

    @property
    def axis_dims(self) -> tuple[int, int, int]:
        """Channels that turn with frame, row and column."""
        return wan_axis_dims(self.head_dim)

    @property
    def rope_spec(self) -> RopeSpec:
        """Frequencies of the three axes."""
        pairs = zip(self.rope_scale, self.axis_dims, strict=True)
        frames, rows, columns = (1e4 * scale ** (dim / (dim - 2)) for scale, dim in pairs)
        return RopeSpec(axis_dims=self.axis_dims, theta=(frames, rows, columns), pairing="half")

    def tables(self, layout: TokenLayout) -> dict[str, Rope]:
        """Rotary tables of every stream."""
        spec = replace(self.rope_spec, policy=spread_policy(self.spread, layout))
        step = 1.0 if self.fps is None else BASE_FPS / self.fps
        frames = {group.name: [step * f for f in _frames(group, layout)] for group in layout.groups}
        tables = rope_table(layout, spec, frame_positions=frames)
        return {str(stream): table for stream, table in tables.items()}

    def learned(self, layout: TokenLayout, embeddings: Any) -> dict[str, Tensor]:
        """Learned embeddings of every stream, ``[L, D]``: their sum over the axes, normalised.

        Args:
            layout: the groups.
            embeddings: diffusers' ``CosmosLearnablePositionalEmbed``. Between its rows, embeddings
                are blended linearly; beyond them there are none.

        Raises:
            UsageError: a grid beyond the last row.
        """
        policy = spread_policy(self.spread, layout)
        tables: dict[str, Tensor] = {}
        for stream, rows in layout.streams.items():
            parts = []
            for group in rows.groups:
                part = _sum(group, _frames(group, layout), policy, embeddings)
                keep = layout.keep.get(group.name)
                parts.append(part if keep is None else part[keep.to(part.device)])
            tables[str(stream)] = torch.cat(parts)
        return tables


def _frames(group: FrameGroup, layout: TokenLayout) -> range:
    first = layout.first_frame(group.name)
    return range(first, first + group.grid.frames)


def _sum(group: FrameGroup, frames: Sequence[int], policy: RopePolicy, embeddings: Any) -> Tensor:
    rows, columns = policy.spatial_positions(group.grid)
    time = torch.tensor(frames, dtype=torch.float64)
    parts = [
        _at(embeddings.pos_emb_t, time, f"frames of {group.name!r}")[:, None, None],
        _at(embeddings.pos_emb_h, rows, f"rows of {group.name!r}")[:, None],
        _at(embeddings.pos_emb_w, columns, f"columns of {group.name!r}"),
    ]
    total = (parts[0] + parts[1] + parts[2]).flatten(0, 2)
    # Not the root of a mean: the gradient of that is not a number where untrained rows are zero.
    wide = total.to(torch.promote_types(total.dtype, torch.float32))
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    placed: Tensor = wide / (_EPS + norm / wide.shape[-1] ** 0.5)
    return placed


def _at(table: Tensor, positions: Tensor, what: str) -> Tensor:
    """Rows of a learned table at positions ``[n]`` that need not be whole, ``[n, D]``."""
    last = table.shape[0] - 1
    if float(positions.max()) > last:
        raise UsageError(
            what,
            expected=f"positions up to {last}, the last that the model learned",
            got=f"{float(positions.max()):g}",
            remedy="Use a smaller grid, or spread='interpolate'.",
        )
    below = positions.floor().long().to(table.device)
    above = (below + 1).clamp(max=last)
    part = (positions.to(table.device) - below).to(table.dtype)[:, None]
    return table[below] * (1 - part) + table[above] * part
