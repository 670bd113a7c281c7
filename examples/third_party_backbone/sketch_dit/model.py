"""The model, as its authors wrote it: nothing in this file knows of SeqTex.

Time ``t`` runs from 0 (noise) to 1 (data) on ``x_t = t x0 + (1 - t) eps``; the model predicts the
velocity ``x0 - eps``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchIn(nn.Module):
    """Patches of 2 x 2 texels to tokens."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.channels = channels
        self.proj = nn.Linear(4 * channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, F, H, W]`` to ``[B, F*H/2*W/2, dim]``."""
        b, c, f, h, w = x.shape
        x = x.reshape(b, c, f, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
        tokens: Tensor = self.proj(x.reshape(b, f * (h // 2) * (w // 2), 4 * c))
        return tokens


class TimeIn(nn.Module):
    """Sinusoids of the time through two layers."""

    def __init__(self, dim: int, waves: int = 16) -> None:
        super().__init__()
        self.waves = waves
        self.up = nn.Linear(2 * waves, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """``[...]`` to ``[..., dim]``."""
        steps = torch.arange(self.waves, device=t.device) / self.waves
        angles = 1000.0 * t.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * steps)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.up.weight.dtype)
        embedded: Tensor = self.out(functional.silu(self.up(waves)))
        return embedded


class Attention(nn.Module):
    """Multi-head attention with a norm per head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.q_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(dim // heads, eps=1e-6)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, angles: Tensor | None = None) -> Tensor:
        """``[B, L, dim]``; ``angles [L, head_dim / 2]`` rotate queries and keys."""
        q, k, v = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, rows in ((self.q, x), (self.k, context), (self.v, context))
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate_halves(q, angles), rotate_halves(k, angles)
        attended = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Self-attention, attention to text, feed-forward; three tables per frame for each half."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.text_attn = Attention(dim, heads)
        self.text_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )
        self.tables = nn.Linear(dim, 6 * dim)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, angles: Tensor) -> Tensor:
        """``x [B, L, dim]``, ``time [B, L, dim]``: every token's embedded time."""
        tables = self.tables(functional.silu(time)).float().chunk(6, dim=-1)
        normed = shifted_norm(x, tables[0], tables[1])
        x = (x.float() + tables[2] * self.attn(normed, normed, angles)).type_as(x)
        x = x + self.text_attn(self.text_norm(x), text)
        update: Tensor = self.ffn(shifted_norm(x, tables[3], tables[4]))
        x = x.float() + tables[5] * update
        return x.to(update.dtype)


class SketchDiT(nn.Module):
    """The whole model.

    Args:
        channels: of the latents.
        dim: width.
        heads: attention heads.
        depth: blocks.
        text_dim: width of the text encoder's rows.
    """

    def __init__(
        self,
        *,
        channels: int = 12,
        dim: int = 48,
        heads: int = 2,
        depth: int = 2,
        text_dim: int = 16,
    ) -> None:
        super().__init__()
        self.config = {
            "channels": channels,
            "dim": dim,
            "heads": heads,
            "depth": depth,
            "text_dim": text_dim,
        }
        self.patch_in = PatchIn(channels, dim)
        self.time_in = TimeIn(dim)
        self.text_in = nn.Linear(text_dim, dim)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.last_tables = nn.Linear(dim, 2 * dim)
        self.patch_out = nn.Linear(dim, 4 * channels)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Velocity ``[B, C, F, H, W]`` at times ``t``, ``[B]`` or per frame ``[B, F]``."""
        frames, rows, columns = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
        t = t[:, None].expand(-1, frames) if t.ndim == 1 else t
        time = self.time_in(t).repeat_interleave(rows * columns, dim=1)
        dim, heads = self.config["dim"], self.config["heads"]
        angles = grid_angles((frames, rows, columns), dim // heads).to(x.device)
        tokens, context = self.patch_in(x), self.text_in(text)
        for block in self.blocks:
            tokens = block(tokens, time, context, angles)
        shift, scale = self.last_tables(functional.silu(time)).float().chunk(2, dim=-1)
        patches: Tensor = self.patch_out(shifted_norm(tokens, shift, scale))
        patches = patches.unflatten(-1, (-1, 2, 2)).unflatten(1, (frames, rows, columns))
        return patches.permute(0, 4, 1, 2, 5, 3, 6).reshape(x.shape)


def shifted_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``norm(x) * (1 + scale) + shift``, in fp32."""
    normed = functional.layer_norm(x.float(), x.shape[-1:])
    return (normed * (1 + scale) + shift).type_as(x)


def grid_angles(grid: tuple[int, int, int], head_dim: int) -> Tensor:
    """Angles ``[L, head_dim / 2]``: channels split over frames, rows and columns."""
    space = 2 * (head_dim // 6)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in grid], indexing="ij")
    parts = []
    for position, dim in zip(axes, (head_dim - 2 * space, space, space), strict=True):
        frequencies = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        parts.append(position.reshape(-1, 1) * frequencies)
    return torch.cat(parts, dim=-1).float()


def rotate_halves(x: Tensor, angles: Tensor) -> Tensor:
    """Channel ``i`` turned with channel ``i + D/2``, ``[B, N, L, D]``."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)
