"""Where LTX-Video puts its tokens: rotary positions in pixels and seconds, not in tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, TokenLayout
from seqtex_core.rope import GridSpread, Rope, RopePolicy, spread_policy

PIXELS_PER_TOKEN = 32
FRAMES_PER_TOKEN = 8
_EXTENT = (20.0, 2048.0, 2048.0)  # seconds, rows and columns that the angles are fractions of
_THETA = 10000.0


@dataclass(frozen=True, kw_only=True)
class PixelPositions:
    """Rotary tables over all heads together, so that every head turns at frequencies of its own.

    A token lies at its first pixel and its first frame's time. Angles are computed in fp32, in the
    order of the pretrained model: the fastest pair turns by 15708 radians over the whole extent,
    which fp32 knows to a thousandth, and the model knows them as they were rounded.

    Args:
        dim: width of all heads; even.
        num_heads: heads that it is split into.
        frame_rate: frames per second.
        causal_time: since version 0.9.5 a first latent frame counts as one frame, not as eight, so
            that the later ones begin seven frames earlier.
        spread: pixels of groups that differ in size. ``"extrapolate"``: 32 per token for all, the
            model's own coordinates for a larger picture; ``"interpolate"``: every group lies over
            the first one, with fewer pixels per token if it has more tokens.

    Raises:
        UsageError: a frame rate that is not positive.
    """

    dim: int
    num_heads: int
    frame_rate: float = 25.0
    causal_time: bool = False
    spread: GridSpread = "extrapolate"

    def __post_init__(self) -> None:
        if not self.frame_rate > 0:
            raise UsageError("frame_rate", expected="a positive number", got=str(self.frame_rate))

    def tables(self, layout: TokenLayout) -> dict[str, Rope]:
        """Tables ``[L, N, D/2]`` of every stream, fp32 on CPU, in the order of its tokens."""
        policy = spread_policy(self.spread, layout)
        tables: dict[str, Rope] = {}
        for stream, rows in layout.streams.items():
            parts = []
            for group in rows.groups:
                part = self._table(self.coordinates(group, layout.first_frame(group.name), policy))
                keep = layout.keep.get(group.name)
                parts.append(part if keep is None else part.rows(keep.cpu()))
            tables[str(stream)] = Rope.cat(parts)
        return tables

    def coordinates(self, group: FrameGroup, first_frame: int, policy: RopePolicy) -> Tensor:
        """Second, row and column of every token in pixels, ``[3, L]``, fp32 on CPU."""
        grid = group.grid
        frames = torch.arange(first_frame, first_frame + grid.frames, device="cpu").float()
        seconds = frames * (FRAMES_PER_TOKEN / self.frame_rate)
        if self.causal_time:
            start = frames * FRAMES_PER_TOKEN + 1 - FRAMES_PER_TOKEN
            seconds = start.clamp(min=0) * (1.0 / self.frame_rate)
        rows, columns = (PIXELS_PER_TOKEN * p.float() for p in policy.spatial_positions(grid))
        return torch.stack(torch.meshgrid(seconds, rows, columns, indexing="ij")).flatten(1)

    def _table(self, coordinates: Tensor) -> Rope:
        count = self.dim // 6
        powers = torch.linspace(0.0, 1.0, count, dtype=torch.float32, device="cpu")
        frequencies = _THETA**powers * math.pi / 2.0
        parts = zip(coordinates, _EXTENT, strict=True)
        fractions = torch.stack([part / extent for part, extent in parts], dim=1)
        angles = frequencies[None, :, None] * (fractions[:, None] * 2 - 1)  # [L, count, 3]
        still = self.dim // 2 - 3 * count  # pairs at the front that do not turn
        turned = torch.nn.functional.pad(angles.flatten(1), (still, 0))
        heads = turned.unflatten(1, (self.num_heads, -1))
        return Rope(cos=heads.cos(), sin=heads.sin())
