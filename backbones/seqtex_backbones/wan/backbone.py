"""Wan2.1 and 2.2 (and everything with their architecture) as a SeqTex backbone.

diffusers' ``WanTransformer3DModel`` is the weight container; the forward is written here, because
diffusers has one noise level per sample and one stream.

Source:
    Wan (arXiv 2503.20314), section 4.2; diffusers' implementation for the order of roundings.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

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
from seqtex_core.flow_matching import clean_to_velocity, model_timesteps
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulated_norm
from seqtex_core.rope import Rope, RopeSpec, rope_table, wan_axis_dims

from ..wan_block import FACTORS, WanBlock
from ..wan_block import LORA_TARGETS as LORA_TARGETS

Prediction = Literal["velocity", "clean"]

_SIGMA_FLOOR = 0.05  # below it, an error of clean latents is not blown up any further


class PatchEmbed(nn.Module):
    """Latents to tokens by a strided convolution.

    Args:
        conv: kernel and stride are the patch.
        extra_channels: input channels that image-to-video models add behind the latents; SeqTex
            has no use for them and feeds zeros.
    """

    def __init__(self, conv: nn.Conv3d, *, extra_channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.extra_channels = extra_channels

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        if self.extra_channels:
            latents = functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, self.extra_channels))
        tokens: Tensor = self.conv(latents).flatten(2).transpose(1, 2).contiguous()
        return tokens


class WanShell(BackboneShell):
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
        self.patch_embedding = PatchEmbed(parts.patch_embedding, extra_channels=extra)
        self.condition_embedder = parts.condition_embedder
        self.proj_out = parts.proj_out
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.rope_spec = RopeSpec(axis_dims=wan_axis_dims(int(config.attention_head_dim)))

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``; rectified flow needs no rescaling."""
        del sigma
        tokens: Tensor = self.patch_embedding(latents)
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding over the latent channels alone."""
        copied = copy.deepcopy(self.patch_embedding)
        if copied.extra_channels:
            conv = copied.conv
            narrow = nn.Conv3d(
                self.out_channels, conv.out_channels, self.patch_size, self.patch_size
            ).to(conv.weight)
            with torch.no_grad():
                narrow.weight.copy_(conv.weight[:, : self.out_channels])
                assert narrow.bias is not None
                assert conv.bias is not None
                narrow.bias.copy_(conv.bias)
            copied = PatchEmbed(narrow, extra_channels=0)
        return copied

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 sigma``, one row per frame, the projection in fp32.

        1 is added here to what scales, once per step and not in every block.
        """
        del pooled
        time = self.project_time(sigma)
        ones = torch.zeros(6, 1, device=sigma.device)
        ones[FACTORS] = 1
        return TimeEmbedding(embedding=time.embedding, projected=time.projected + ones)

    def project_time(self, sigma: Tensor) -> TimeEmbedding:
        """Embedding and projection as the weights give them; the sinusoid stays fp32."""
        embedder = self.condition_embedder
        sinusoid = embedder.timesteps_proj(model_timesteps(sigma).flatten())
        hidden = embedder.time_embedder(sinusoid.to(embedder.time_embedder.linear_1.weight.dtype))
        hidden = hidden.to(embedder.time_proj.weight.dtype).unflatten(0, sigma.shape)
        projected = embedder.time_proj(functional.silu(hidden)).unflatten(-1, (6, -1))
        return TimeEmbedding(embedding=hidden, projected=projected)

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Text MLP (and image MLP); padding rows stay in, the model was trained with them."""
        del pooled
        embedder = self.condition_embedder
        if image is not None and embedder.image_embedder is None:
            raise UsageError(
                "image", expected="none: this model has no image encoder", got=str(image.shape)
            )
        tokens = None if image is None else embedder.image_embedder(image)
        return TextContext(text=embedder.text_embedder(text), image=tokens, mask=mask)

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
        blocks = tokens.unflatten(1, (grid.frames, grid.height, grid.width))
        blocks = blocks.unflatten(-1, (*self.patch_size, self.out_channels))
        blocks = blocks.permute(0, 7, 1, 4, 2, 5, 3, 6)
        latents: Tensor = blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return latents

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """The prediction itself, or ``(x_sigma - x0) / sigma`` for one of clean latents."""
        if self.prediction == "velocity":
            return prediction
        return clean_to_velocity(latents, prediction, sigma, min_sigma=_SIGMA_FLOOR)


class WanBackbone(Backbone):
    """A Wan transformer, taken apart.

    Args:
        model: a diffusers ``WanTransformer3DModel``. Its blocks and embedders are taken over; do
            not use it on its own afterwards.
        name: registry name.
        text_length: text rows that the model was trained with.
        prediction: what the network predicts, the velocity or the clean latents.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "wan",
        text_length: int = 512,
        prediction: Prediction = "velocity",
    ) -> None:
        parts: Any = model
        config = parts.config
        if config.qk_norm != "rms_norm_across_heads" or not config.cross_attn_norm:
            raise UsageError(
                "Wan config",
                expected="qk_norm 'rms_norm_across_heads' with cross_attn_norm",
                got=f"qk_norm {config.qk_norm!r}, cross_attn_norm {config.cross_attn_norm}",
            )
        if config.in_channels < config.out_channels:
            raise UsageError(
                "Wan config",
                expected="in_channels that start with the out_channels",
                got=f"{config.in_channels} in, {config.out_channels} out",
            )
        self.config: dict[str, Any] = dict(config)
        self.prediction: Prediction = prediction
        self.shell = WanShell(model, prediction=prediction)
        self.blocks = [WanBlock(block) for block in parts.blocks]
        heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
        patch: tuple[int, int, int] = tuple(config.patch_size)
        self.spec = BackboneSpec(
            name=name,
            dim=heads * head_dim,
            num_heads=heads,
            head_dim=head_dim,
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=patch,
            text_dim=int(config.text_dim),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            image_dim=config.image_dim,
        )

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = {
            key.replace("patch_embedding.conv.", "patch_embedding."): value
            for key, value in shell.items()
        }
        for index, block in enumerate(blocks):
            state |= {f"blocks.{index}.{key}": value for key, value in block.items()}
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
        """Velocity by the forward of diffusers; levels per frame become timesteps per token.

        Models that read an image need one here, and 512 rows of text: diffusers tells the two
        apart by that number. A mask or summary of the text, which diffusers' Wan does not
        know, is refused.
        """
        from diffusers import WanTransformer3DModel

        if text_mask is not None or pooled_text is not None:
            raise UsageError("reference", expected="neither mask nor summary", got="one")
        dtype = state["proj_out.weight"].dtype
        with torch.device("meta"):
            model = WanTransformer3DModel.from_config(self.config)
        model.rope = type(model.rope)(
            self.spec.head_dim, self.spec.patch_size, int(self.config["rope_max_seq_len"])
        ).to(latents.device)
        model.load_state_dict(dict(state), strict=True, assign=True)
        timestep = model_timesteps(sigma)
        if sigma.ndim == 2:
            size = cast(tuple[int, int, int], tuple(latents.shape[2:]))
            grid = self.spec.grid("latents", size)
            timestep = timestep.repeat_interleave(grid.tokens_per_frame, dim=1)
        extra = int(self.config["in_channels"]) - self.spec.latent_channels
        padded = functional.pad(latents.to(dtype), (0, 0, 0, 0, 0, 0, 0, extra))
        image = None if image is None else image.to(dtype)
        with torch.no_grad():
            predicted = model(padded, timestep, text.to(dtype), image, return_dict=False)[0]
        levels = sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, latents.shape[2])
        return self.shell.to_velocity(predicted, latents, levels)
