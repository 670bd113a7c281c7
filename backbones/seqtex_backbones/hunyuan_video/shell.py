"""What surrounds the blocks of HunyuanVideo: embedders, token refiner, positions, head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import TextContext, TimeEmbedding
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import model_timesteps
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulated_norm
from seqtex_core.rope import GridSpread, Rope, RopeSpec, rope_table, spread_policy

from ..diffusers_parts.patches import ConvPatches, join_patches
from ..diffusers_parts.shell import DiffusersShell, embed_levels
from ..diffusers_parts.sublayers import wide
from .blocks import EPS


class HunyuanVideoShell(DiffusersShell):
    """Embedders, token refiner, positions and head of a HunyuanVideo model.

    Args:
        model: a diffusers ``HunyuanVideoTransformer3DModel``; its modules are taken over.
        guidance: guidance scale that a distilled model is told; others are not.
        spread: positions of groups that differ in size, see ``spread_policy``.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("x_embedder",),
        "time_text": ("time_text_embed",),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("context_embedder",)

    def __init__(self, model: nn.Module, *, guidance: float, spread: GridSpread) -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        self.x_embedder = ConvPatches(parts.x_embedder.proj)
        self.context_embedder = parts.context_embedder
        self.time_text_embed = parts.time_text_embed
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.patch_size = int(config.patch_size)
        self.guidance = guidance
        self.spread: GridSpread = spread
        frames, height, width = (int(dim) for dim in config.rope_axes_dim)
        self.rope_spec = RopeSpec(axis_dims=(frames, height, width), theta=float(config.rope_theta))

    @property
    def patches(self) -> ConvPatches:
        """The patch embedding."""
        return self.x_embedder

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 sigma`` plus the summary of the text."""
        embedder = self.time_text_embed
        times = model_timesteps(sigma)
        hidden = embed_levels(embedder.time_proj, embedder.timestep_embedder, times)
        hidden = hidden if pooled is None else hidden + pooled.unsqueeze(1)
        return TimeEmbedding(embedding=hidden, projected=functional.silu(hidden))

    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """Rows as they are, as ``initial_text`` makes something else of them at every level.

        Raises:
            UsageError: no summary, or a first row that is hidden, which the token
                refiner reads all the same.
        """
        if pooled is None:
            raise UsageError("pooled_text", expected="a summary of the text", got="none")
        if mask is not None and not bool(mask[:, 0].all()):
            raise UsageError("text_mask", expected="the first row to read", got="it is hidden")
        embedder = self.time_text_embed
        added = embedder.text_embedder(pooled)
        if embedder.guidance_embedder is not None:
            scale = torch.full((1,), 1000.0 * self.guidance, device=text.device)
            added = added + embed_levels(embedder.time_proj, embedder.guidance_embedder, scale)
        return TextContext(text=text, mask=mask, pooled=added)

    def initial_text(self, context: TextContext, sigma: Tensor) -> Tensor:
        """The refined rows, ``[B, S, D]``; the refiner reads their noise level."""
        times = model_timesteps(sigma)[:, 0]
        rows: Tensor = self.context_embedder(context.text, times, context.mask)
        return rows

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Rotary tables in integer positions."""
        spec = replace(self.rope_spec, policy=spread_policy(self.spread, layout))
        return {str(stream): rope for stream, rope in rope_table(layout, spec).items()}

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Norm, modulation and projection, ``[B, L, C * patch]``, channels slowest."""
        scale, shift = wide(self.norm_out.linear(time.projected)).chunk(2, dim=-1)
        normed = modulated_norm(hidden_states, shift, 1 + scale, rows, eps=EPS)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(C, ph, pw)``."""
        patch = (1, self.patch_size, self.patch_size)
        return join_patches(tokens, grid, patch, channels="first")
