"""What surrounds the blocks of a Cosmos model: patches, levels, text, positions, head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import TextContext, TimeEmbedding
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulated_norm
from seqtex_core.rope import Rope

from ..diffusers_parts.patches import LinearPatches, join_patches
from ..diffusers_parts.shell import DiffusersShell
from ..diffusers_parts.sublayers import with_factors
from .block import low_rank
from .positions import CosmosPositions
from .schedule import CosmosSchedule


class CosmosShell(DiffusersShell):
    """Embedders, positions and head of a Cosmos model.

    Args:
        model: a diffusers ``CosmosTransformer3DModel``; its modules are taken over.
        positions: where its tokens lie.
        schedule: what it is fed and predicts.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_embed",),
        "time_text": ("time_embed", "crossattn_proj"),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("learnable_pos_embed",)

    def __init__(
        self, model: nn.Module, *, positions: CosmosPositions, schedule: CosmosSchedule
    ) -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        self.patch_size = int(config.patch_size[1])
        unused = int(config.in_channels) - int(config.out_channels)
        self.patch_embed = LinearPatches(
            parts.patch_embed.proj,
            patch_size=self.patch_size,
            extra_channels=unused + int(config.concat_padding_mask),
        )
        self.time_embed = parts.time_embed
        self.crossattn_proj = getattr(parts, "crossattn_proj", nn.Identity())
        self.has_learned_positions = parts.learnable_pos_embed is not None
        self.learnable_pos_embed = parts.learnable_pos_embed or nn.Identity()
        self.norm_out = parts.norm_out
        self.eps = float(parts.norm_out.norm.eps)
        self.proj_out = parts.proj_out
        self.positions = positions
        self.schedule = schedule

    @property
    def patches(self) -> LinearPatches:
        """The patch embedding."""
        return self.patch_embed

    def network_input(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """``x_sigma``, in Predict1 scaled to unit variance."""
        return self.schedule.network_input(latents, sigma)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """The normalised sinusoid of the level, and the modulation that all blocks share."""
        del pooled
        embedder = self.time_embed
        told = self.schedule.condition(sigma)
        sinusoid = embedder.time_proj(told.flatten()).unflatten(0, sigma.shape)
        sinusoid = sinusoid.to(embedder.norm.weight.dtype)
        shared = embedder.t_embedder(sinusoid).unflatten(-1, (3, -1))
        level = functional.silu(embedder.norm(sinusoid))
        return TimeEmbedding(embedding=level, projected=with_factors(shared))

    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """Text rows, projected in Predict2.5; padding stays in, the model was trained with it."""
        del pooled
        return TextContext(text=self.crossattn_proj(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Slowed rotary tables."""
        return self.positions.tables(layout)

    def position_embedding(self, layout: TokenLayout) -> Mapping[str, Tensor] | None:
        """Learned embeddings, added before every block, in models that have them."""
        if not self.has_learned_positions:
            return None
        return self.positions.learned(layout, self.learnable_pos_embed)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Final norm, modulation and projection, ``[B, L, patch * C]``, channels fastest."""
        shift, factor = low_rank(self.norm_out, time, parts=2)
        normed = modulated_norm(hidden_states, shift, factor, rows, eps=self.eps)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(ph, pw, C)``."""
        patch = (1, self.patch_size, self.patch_size)
        return join_patches(tokens, grid, patch, channels="last")

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """The prediction itself, or in Predict1 what is made of it."""
        return self.schedule.to_velocity(prediction, latents, sigma)
