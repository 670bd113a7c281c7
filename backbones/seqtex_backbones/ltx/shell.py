"""What surrounds the blocks of LTX-Video: one token per latent cell, positions in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import TextContext, TimeEmbedding
from seqtex_core.flow_matching import model_timesteps
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulated_norm
from seqtex_core.rope import Rope

from ..diffusers_parts.patches import LinearPatches, join_patches
from ..diffusers_parts.shell import DiffusersShell, embed_levels
from ..diffusers_parts.sublayers import wide, with_factors
from .positions import PixelPositions


class LTXShell(DiffusersShell):
    """Embedders, positions and head of an LTX-Video model.

    Args:
        model: a diffusers ``LTXVideoTransformer3DModel``; its modules are taken over.
        positions: where its tokens lie.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("proj_in",),
        "time_text": ("time_embed", "caption_projection"),
        "proj_out": ("proj_out",),
    }

    def __init__(self, model: nn.Module, *, positions: PixelPositions) -> None:
        super().__init__()
        parts: Any = model
        self.proj_in = LinearPatches(parts.proj_in, patch_size=1)
        self.time_embed = parts.time_embed
        self.caption_projection = parts.caption_projection
        self.proj_out = parts.proj_out
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.eps = float(parts.norm_out.eps)
        self.positions = positions

    @property
    def patches(self) -> LinearPatches:
        """The patch embedding."""
        return self.proj_in

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 sigma``, one row per frame."""
        del pooled
        embedder = self.time_embed.emb
        times = model_timesteps(sigma)
        hidden = embed_levels(embedder.time_proj, embedder.timestep_embedder, times)
        projected = self.time_embed.linear(functional.silu(hidden)).unflatten(-1, (6, -1))
        return TimeEmbedding(embedding=hidden, projected=with_factors(projected))

    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """Text MLP; the model was trained with padding rows hidden."""
        del pooled
        return TextContext(text=self.caption_projection(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Rotary tables over all heads, in pixels and seconds."""
        return self.positions.tables(layout)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """LayerNorm, modulation and projection, ``[B, L, C]``."""
        table = wide(self.scale_shift_table) + wide(time.embedding).unsqueeze(2)
        shift, scale = table.unbind(2)
        normed = modulated_norm(hidden_states, shift, 1 + scale, rows, eps=self.eps)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from one token per cell."""
        return join_patches(tokens, grid, (1, 1, 1), channels="first")
