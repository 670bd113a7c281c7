"""Mochi 1 as a SeqTex backbone: video and a narrower text stream in one attention.

diffusers' ``MochiTransformer3DModel`` is the weight container; the forward is written here, with
one noise level per frame, and with norms, modulation and gates in fp32. The model's time is
``1 - sigma``, and it predicts ``x0 - eps``.

Source:
    Mochi 1 (Genmo, 2024: AsymmDiT); diffusers' implementation for details.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import (
    Backbone,
    BackboneShell,
    BackboneSpec,
    TextContext,
    TimeEmbedding,
)
from seqtex_core.errors import UsageError
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulate
from seqtex_core.rope import Rope

from .block import LORA_TARGETS, MochiBlock, MochiLastBlock
from .positions import MochiPositions


class LatentEmbed(nn.Module):
    """Latents to tokens, frame by frame.

    Args:
        proj: a convolution whose kernel is the patch.
    """

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        frames = latents.transpose(1, 2)
        rows: Tensor = self.proj(frames.flatten(0, 1)).flatten(2).transpose(1, 2).contiguous()
        return rows.view(frames.shape[0], -1, rows.shape[-1])


class MochiShell(BackboneShell):
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
        self.patch_embed = LatentEmbed(parts.patch_embed.proj)
        self.time_embed = parts.time_embed
        self.positions = MochiPositions(parts.pos_frequencies, area=int(parts.rope.target_area))
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.eps = float(parts.norm_out.norm.eps)
        self.patch_size = int(parts.config.patch_size)

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``; rectified flow needs no rescaling."""
        del sigma
        tokens: Tensor = self.patch_embed(latents)
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding."""
        return copy.deepcopy(self.patch_embed)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 (1 - sigma)`` plus the pooled text; the sinusoid stays fp32."""
        embedder = self.time_embed.timestep_embedder
        sinusoid = self.time_embed.time_proj(model_time(sigma).flatten())
        hidden = embedder(sinusoid.to(embedder.linear_1.weight.dtype)).unflatten(0, sigma.shape)
        hidden = hidden if pooled is None else hidden + pooled.unsqueeze(1)
        return TimeEmbedding(embedding=hidden, projected=functional.silu(hidden))

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Rows at the width of the text stream; their own pooling is added to every level."""
        del pooled
        if image is not None:
            raise UsageError(
                "image", expected="none: this model has no image encoder", got=str(image.shape)
            )
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
        scale, shift = self.norm_out.linear(time.projected).float().chunk(2, dim=-1)
        wide = hidden_states.float()
        normed = functional.layer_norm(wide, wide.shape[-1:], eps=self.eps)
        tokens: Tensor = self.proj_out(modulate(normed, shift, scale, rows).type_as(hidden_states))
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(ph, pw, C)``."""
        blocks = tokens.unflatten(1, (grid.frames, grid.height, grid.width))
        blocks = blocks.unflatten(-1, (self.patch_size, self.patch_size, -1))
        latents: Tensor = blocks.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return latents

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """``eps - x0`` from ``x0 - eps``."""
        del latents, sigma
        return -prediction


class MochiBackbone(Backbone):
    """A Mochi transformer, taken apart.

    Args:
        model: a diffusers ``MochiTransformer3DModel``. Its blocks and embedders are taken over; do
            not use it on its own afterwards.
        name: registry name.

    Raises:
        UsageError: other channels out than in.
    """

    def __init__(self, model: nn.Module, *, name: str = "mochi") -> None:
        parts: Any = model
        config = parts.config
        out_channels = int(config.out_channels or config.in_channels)
        if out_channels != config.in_channels:
            raise UsageError(
                "Mochi config",
                expected="as many channels out as in",
                got=f"{config.in_channels} in, {out_channels} out",
            )
        self.config: dict[str, Any] = dict(config)
        self.shell = MochiShell(model)
        *first, last = parts.transformer_blocks
        self.blocks = [*(MochiBlock(block) for block in first), MochiLastBlock(last)]
        heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
        self.spec = BackboneSpec(
            name=name,
            dim=heads * head_dim,
            num_heads=heads,
            head_dim=head_dim,
            num_blocks=len(self.blocks),
            latent_channels=out_channels,
            patch_size=(1, int(config.patch_size), int(config.patch_size)),
            text_dim=int(config.text_embed_dim),
            text_length=int(config.max_sequence_length),
            lora_targets=LORA_TARGETS,
            joint_text=True,
            masks_text=True,
        )

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = {key.removeprefix("positions."): value for key, value in shell.items()}
        for index, block in enumerate(blocks):
            state |= {f"transformer_blocks.{index}.{key}": value for key, value in block.items()}
        return state

    def reference_velocity(
        self,
        state: Mapping[str, Tensor],
        latents: Tensor,
        sigma: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        *,
        text_mask: Tensor | None = None,
        pooled_text: Tensor | None = None,
    ) -> Tensor:
        """Velocity by the forward of diffusers, which has one level ``[B]`` for all frames.

        Hidden rows must come last: diffusers puts the others in front of them.

        Raises:
            UsageError: levels per frame, an image, or a summary of the text.
        """
        from diffusers import MochiTransformer3DModel

        if sigma.ndim != 1 or image is not None or pooled_text is not None:
            raise UsageError(
                "reference", expected="one level per sample and text rows alone", got="others"
            )
        with torch.device("meta"):
            model = MochiTransformer3DModel.from_config(self.config)
        model.load_state_dict(dict(state), strict=True, assign=True)
        dtype = state["proj_out.weight"].dtype
        if text_mask is None:
            text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        with torch.no_grad():
            predicted: Tensor = model(
                latents.to(dtype),
                text.to(dtype),
                model_time(sigma),
                text_mask,
                return_dict=False,
            )[0]
        return -predicted


def model_time(sigma: Tensor) -> Tensor:
    """The model's timestep, 1000 for clean latents and 0 for noise, fp32."""
    return 1000.0 * (1.0 - sigma.float())
