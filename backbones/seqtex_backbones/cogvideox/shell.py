"""What surrounds the blocks of a CogVideoX model: patches, levels, text, positions, head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import TextContext, TimeEmbedding
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import RowNorm, affine_norm, normed_rows
from seqtex_core.rope import (
    Extrapolation,
    Interpolation,
    LinspaceEnd,
    Rope,
    RopePolicy,
    RopeSpec,
    cogvideox_axis_dims,
    rope_table,
)

from ..diffusers_parts.patches import ConvPatches, LinearPatches, join_patches
from ..diffusers_parts.shell import DiffusersShell, embed_levels
from ..diffusers_parts.sublayers import wide, with_weights
from .positions import SinusoidalPositions
from .schedule import VPSchedule, to_vp, v_to_velocity


class CogVideoXShell(DiffusersShell):
    """Embedders, positions, head and noise schedule of a CogVideoX model.

    Args:
        model: a diffusers ``CogVideoXTransformer3DModel``; its modules are taken over.
        schedule: the noise schedule it was trained with.
        linspace_end: see ``CogVideoXConfig``.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_embed",),
        "time_text": ("time_embedding",),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("text_proj",)

    def __init__(
        self, model: nn.Module, *, schedule: VPSchedule, linspace_end: LinspaceEnd = "diffusers"
    ) -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        self.schedule = schedule
        self.patch_size = int(config.patch_size)
        self.frame_repeat = int(config.patch_size_t or 1)
        self.patch_embed = self._patches(parts.patch_embed.proj)
        self.text_proj = parts.patch_embed.text_proj
        self.time_proj = parts.time_proj
        self.time_embedding = parts.time_embedding
        self.norm_final = parts.norm_final
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.rope_spec = _rope_spec(config, linspace_end)
        self.sinusoids: SinusoidalPositions | None = None
        if self.rope_spec is None:
            self.sinusoids = SinusoidalPositions(
                dim=int(config.num_attention_heads) * int(config.attention_head_dim),
                spatial_scale=float(config.spatial_interpolation_scale),
                temporal_scale=float(config.temporal_interpolation_scale),
            )

    @property
    def patches(self) -> ConvPatches | LinearPatches:
        """The patch embedding."""
        return self.patch_embed

    def network_input(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """``x_sigma``, scaled to the variance that the model was trained with."""
        return to_vp(latents, sigma)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on the schedule's timestep of every level."""
        del pooled
        times = self.schedule.timesteps(sigma)
        hidden = embed_levels(self.time_proj, self.time_embedding, times)
        return TimeEmbedding(embedding=hidden, projected=functional.silu(hidden))

    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """The text rows before the first block; padding stays in, the model was trained with it."""
        del pooled
        return TextContext(text=self.text_proj(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope] | None:
        """Rotary tables; ``None`` for the 2B model."""
        if self.rope_spec is None:
            return None
        return {str(stream): rope for stream, rope in rope_table(layout, self.rope_spec).items()}

    def position_embedding(self, layout: TokenLayout) -> Mapping[str, Tensor] | None:
        """Added sinusoids; ``None`` for models that rotate."""
        return None if self.sinusoids is None else self.sinusoids.table(layout)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Two norms in a row, modulation, projection, ``[B, L, C * patch]``, channels slowest."""
        shift, scale = wide(self.norm_out.linear(time.projected)).chunk(2, dim=-1)
        first, second = self.norm_final, self.norm_out.norm
        normed = affine_norm(hidden_states, first.weight, first.bias, eps=first.eps)
        last = with_weights(second, RowNorm(1 + scale, shift, second.eps))
        tokens: Tensor = self.proj_out(normed_rows(normed, last, rows))
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]``; the copies of a repeated frame are averaged."""
        patch = (self.frame_repeat, self.patch_size, self.patch_size)
        frames = join_patches(tokens, grid, patch, channels="first")
        latents: Tensor = frames.unflatten(2, (-1, self.frame_repeat)).mean(dim=3)
        return latents

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """``u`` from ``v``."""
        return v_to_velocity(prediction, latents, sigma)

    def _patches(self, proj: nn.Conv2d | nn.Linear) -> ConvPatches | LinearPatches:
        """A convolution, or (1.5) a linear layer over patches of several frames."""
        if isinstance(proj, nn.Conv2d):
            return ConvPatches(proj)
        return LinearPatches(proj, patch_size=self.patch_size, frame_repeat=self.frame_repeat)


def _rope_spec(config: Any, linspace_end: LinspaceEnd) -> RopeSpec | None:
    if not config.use_rotary_positional_embeddings:
        return None
    policy: RopePolicy = Extrapolation()
    if config.patch_size_t is None:
        patch = int(config.patch_size)
        policy = Interpolation(
            base_height=int(config.sample_height) // patch,
            base_width=int(config.sample_width) // patch,
            linspace_end=linspace_end,
        )
    return RopeSpec(axis_dims=cogvideox_axis_dims(int(config.attention_head_dim)), policy=policy)
