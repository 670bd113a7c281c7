"""What surrounds the blocks of Mochi: embedders, learned positions, head, and time turned round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import TextContext, TimeEmbedding
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulated_norm
from seqtex_core.rope import Rope

from ..diffusers_parts.patches import ConvPatches, join_patches
from ..diffusers_parts.shell import DiffusersShell, embed_levels
from ..diffusers_parts.sublayers import wide
from .positions import MochiPositions


class MochiShell(DiffusersShell):
    """Embedders, positions and head of a Mochi model.

    Args:
        model: a diffusers ``MochiTransformer3DModel``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_embed",),
        "time_text": ("time_embed",),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("time_embed.caption_proj", "positions")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parts: Any = model
        self.patch_embed = ConvPatches(parts.patch_embed.proj)
        self.time_embed = parts.time_embed
        self.positions = MochiPositions(parts.pos_frequencies, area=int(parts.rope.target_area))
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.eps = float(parts.norm_out.norm.eps)
        self.patch_size = int(parts.config.patch_size)

    @property
    def patches(self) -> ConvPatches:
        """The patch embedding."""
        return self.patch_embed

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 (1 - sigma)`` plus the pooled text."""
        embedder = self.time_embed
        hidden = embed_levels(embedder.time_proj, embedder.timestep_embedder, model_time(sigma))
        hidden = hidden if pooled is None else hidden + pooled.unsqueeze(1)
        return TimeEmbedding(embedding=hidden, projected=functional.silu(hidden))

    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """Rows at the width of the text stream; their own pooling is added to every level."""
        del pooled
        shown = text.new_ones(text.shape[:2], dtype=torch.bool) if mask is None else mask
        embedder = self.time_embed
        return TextContext(
            text=embedder.caption_proj(text), mask=mask, pooled=embedder.pooler(text, shown)
        )

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """A table for every head; grids of all sizes cover the same area."""
        return self.positions.tables(layout)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Norm, modulation and projection, ``[B, L, patch * C]``, channels fastest."""
        scale, shift = wide(self.norm_out.linear(time.projected)).chunk(2, dim=-1)
        normed = modulated_norm(hidden_states, shift, 1 + scale, rows, eps=self.eps)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(ph, pw, C)``."""
        patch = (1, self.patch_size, self.patch_size)
        return join_patches(tokens, grid, patch, channels="last")

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """``eps - x0`` from ``x0 - eps``."""
        del latents, sigma
        return -prediction


def model_time(sigma: Tensor) -> Tensor:
    """The model's timestep, 1000 for clean latents and 0 for noise, fp32."""
    return 1000.0 * (1.0 - sigma.float())
