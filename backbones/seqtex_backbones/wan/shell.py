"""What surrounds the blocks of a Wan model: patches, time, text, positions, head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import TextContext, TimeEmbedding
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import CLEAN_SIGMA_FLOOR, clean_to_velocity, model_timesteps
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulated_norm
from seqtex_core.rope import Rope, RopeSpec, rope_table, wan_axis_dims

from ..diffusers_parts.patches import ConvPatches, join_patches
from ..diffusers_parts.shell import DiffusersShell, embed_levels
from ..diffusers_parts.sublayers import with_factors

Prediction = Literal["velocity", "clean"]


class WanShell(DiffusersShell):
    """Patch embedding, time and text embedders, positions and head of a Wan model.

    Args:
        model: a diffusers ``WanTransformer3DModel``; its modules are taken over.
        prediction: what the network predicts, the velocity or the clean latents.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_embedding",),
        "time_text": ("condition_embedder",),
        "proj_out": ("proj_out",),
    }

    def __init__(self, model: nn.Module, *, prediction: Prediction = "velocity") -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        if prediction not in ("velocity", "clean"):
            raise UsageError("prediction", expected="'velocity' or 'clean'", got=repr(prediction))
        self.prediction = prediction
        self.patch_size: tuple[int, int, int] = tuple(config.patch_size)
        self.out_channels = int(config.out_channels)
        self.eps = float(config.eps)
        extra = int(config.in_channels) - self.out_channels
        self.patch_embedding = ConvPatches(parts.patch_embedding, extra_channels=extra)
        self.condition_embedder = parts.condition_embedder
        self.proj_out = parts.proj_out
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.rope_spec = RopeSpec(axis_dims=wan_axis_dims(int(config.attention_head_dim)))

    @property
    def patches(self) -> ConvPatches:
        """The patch embedding."""
        return self.patch_embedding

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 sigma``, one row per frame, the projection in fp32."""
        del pooled
        time = self.project_time(sigma)
        return replace(time, projected=with_factors(time.projected))

    def project_time(self, sigma: Tensor) -> TimeEmbedding:
        """Embedding and projection as the weights give them; the sinusoid stays fp32."""
        embedder = self.condition_embedder
        times = model_timesteps(sigma)
        hidden = embed_levels(embedder.timesteps_proj, embedder.time_embedder, times)
        hidden = hidden.to(embedder.time_proj.weight.dtype)
        projected = embedder.time_proj(functional.silu(hidden)).unflatten(-1, (6, -1))
        return TimeEmbedding(embedding=hidden, projected=projected)

    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """Text MLP; padding rows stay in, the model was trained with them."""
        del pooled
        return TextContext(text=self.condition_embedder.text_embedder(text), mask=mask)

    def image_tokens(self, image: Tensor) -> Tensor:
        """Image MLP of image-to-video models."""
        embedder = self.condition_embedder.image_embedder
        tokens: Tensor = super().image_tokens(image) if embedder is None else embedder(image)
        return tokens

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Extrapolated rotary tables: integer positions on every group's own grid."""
        return {str(stream): rope for stream, rope in rope_table(layout, self.rope_spec).items()}

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Final norm, modulation and projection, ``[B, L, patch * C]``, channels fastest."""
        shift, scale = (self.scale_shift_table.unsqueeze(0) + time.embedding.unsqueeze(2)).unbind(2)
        normed = modulated_norm(hidden_states, shift, 1 + scale, rows, eps=self.eps)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(pt, ph, pw, C)``."""
        return join_patches(tokens, grid, self.patch_size, channels="last")

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """The prediction itself, or ``(x_sigma - x0) / sigma`` for one of clean latents."""
        if self.prediction == "velocity":
            return prediction
        return clean_to_velocity(latents, prediction, sigma, min_sigma=CLEAN_SIGMA_FLOOR)
