"""LTX-Video (2B, 13B) as a SeqTex backbone: one token per latent cell, positions in pixels.

diffusers' ``LTXVideoTransformer3DModel`` is the weight container; the forward is written here, with
one noise level per frame, and with norms, modulation and gates in fp32.

Source:
    LTX-Video (arXiv 2501.00103), section 2; diffusers' implementation for the order of operations.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import (
    Backbone,
    BackboneBlock,
    BackboneShell,
    BackboneSpec,
    KeyValue,
    TextContext,
    TimeEmbedding,
)
from seqtex_core.attention import Attend
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import gated_residual, modulate
from seqtex_core.qk_prep import QKNorm, qk_prep
from seqtex_core.rope import Extrapolation, GridSpread, Rope

from .positions import PixelPositions

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)


class LTXModulation(NamedTuple):
    """Shift, scale and gate of self-attention, then of the feed-forward; each ``[B, F, D]``."""

    shift: Tensor
    scale: Tensor
    gate: Tensor
    ff_shift: Tensor
    ff_scale: Tensor
    ff_gate: Tensor


class LTXBlock(BackboneBlock):
    """Self-attention, cross-attention to text, feed-forward; modulated per frame.

    Args:
        block: a diffusers ``LTXVideoTransformerBlock``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.attn1 = parts.attn1
        self.attn2 = parts.attn2
        self.ff = parts.ff
        self.eps = float(parts.norm1.eps)
        self.num_heads = int(parts.attn1.heads)

    @property
    def q_norm(self) -> QKNorm:
        """RMS norm over all heads."""
        return _rms(self.attn1.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm over all heads."""
        return _rms(self.attn1.norm_k)

    def modulation(self, time: TimeEmbedding) -> LTXModulation:
        """The block's table plus the time projection, fp32."""
        rows = self.scale_shift_table.float() + time.projected.float()
        return LTXModulation(*rows.unbind(2))

    def pre_attention(
        self, hidden_states: Tensor, modulation: LTXModulation, rows: StreamLayout
    ) -> Tensor:
        """RMS norm in fp32, then shift and scale, ``[B, L, D]``."""
        return self._norm(hidden_states, modulation.shift, modulation.scale, rows)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries, ``[B, L, N*D]``."""
        projected: Tensor = self.attn1.to_q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values, each ``[B, L, N*D]``."""
        return self.attn1.to_k(normed), self.attn1.to_v(normed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: LTXModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate and residual."""
        del normed
        update = self.attn1.to_out[0](attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text; padding is hidden."""
        attn, text = self.attn2, context.text
        key, value, norm = attn.to_k(text), attn.to_v(text), _rms(attn.norm_k)
        return (KeyValue.of(key, value, norm, num_heads=self.num_heads, mask=context.key_mask),)

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: LTXModulation,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """Of the residual stream as it is: without norm, modulation and gate."""
        del modulation, rows
        norm, text = _rms(self.attn2.norm_q), key_values[0]
        query = qk_prep(self.attn2.to_q(hidden_states), norm, num_heads=self.num_heads)
        attended = attend(query, text.key, text.value, mask=text.mask)
        out: Tensor = hidden_states + self.attn2.to_out[0](attended.flatten(2))
        return out

    def feed_forward(
        self, hidden_states: Tensor, modulation: LTXModulation, rows: StreamLayout
    ) -> Tensor:
        """GELU network, modulated and gated."""
        shift, scale = modulation.ff_shift, modulation.ff_scale
        update = self.ff(self._norm(hidden_states, shift, scale, rows))
        return gated_residual(hidden_states, update, modulation.ff_gate, rows)

    def _norm(self, x: Tensor, shift: Tensor, scale: Tensor, rows: StreamLayout) -> Tensor:
        normed = functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps)
        return modulate(normed, shift, scale, rows).type_as(x)


class TokenEmbed(nn.Module):
    """Latents to tokens, one per cell.

    Args:
        proj: from latent channels to the width of the residual stream.
    """

    def __init__(self, proj: nn.Linear) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        tokens: Tensor = self.proj(latents.flatten(2).transpose(1, 2))
        return tokens


class LTXShell(BackboneShell):
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
        self.proj_in = TokenEmbed(parts.proj_in)
        self.time_embed = parts.time_embed
        self.caption_projection = parts.caption_projection
        self.proj_out = parts.proj_out
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.eps = float(parts.norm_out.eps)
        self.positions = positions

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``; rectified flow needs no rescaling."""
        del sigma
        tokens: Tensor = self.proj_in(latents)
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the token embedding."""
        return copy.deepcopy(self.proj_in)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 sigma``, one row per frame; the sinusoid stays fp32."""
        embedder = self.time_embed.emb
        sinusoid = embedder.time_proj(1000.0 * sigma.float().flatten())
        weight = embedder.timestep_embedder.linear_1.weight
        hidden = embedder.timestep_embedder(sinusoid.to(weight.dtype)).unflatten(0, sigma.shape)
        projected = self.time_embed.linear(functional.silu(hidden)).unflatten(-1, (6, -1))
        return TimeEmbedding(embedding=hidden, projected=projected)

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Text MLP; the model was trained with padding rows hidden."""
        if image is not None:
            raise UsageError(
                "image", expected="none: this model has no image encoder", got=str(image.shape)
            )
        return TextContext(text=self.caption_projection(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Rotary tables over all heads, in pixels and seconds."""
        return self.positions.tables(layout)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Final norm, modulation and projection, ``[B, L, C]``."""
        table = self.scale_shift_table.float() + time.embedding.float().unsqueeze(2)
        shift, scale = table.unbind(2)
        wide = hidden_states.float()
        normed = functional.layer_norm(wide, wide.shape[-1:], eps=self.eps)
        normed = modulate(normed, shift, scale, rows).type_as(hidden_states)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from one token per cell."""
        size = (grid.frames, grid.height, grid.width)
        latents: Tensor = tokens.transpose(1, 2).unflatten(2, size)
        return latents


class LTXBackbone(Backbone):
    """An LTX-Video transformer, taken apart.

    Args:
        model: a diffusers ``LTXVideoTransformer3DModel``. Its blocks and embedders are taken over;
            do not use it on its own afterwards.
        name: registry name.
        text_length: text rows that the model was trained with.
        frame_rate: see ``PixelPositions``.
        causal_time: see ``PixelPositions``.
        spread: see ``PixelPositions``.

    Raises:
        UsageError: a model whose norms have weights, whose tokens are packed patches, or which
            does not predict as many channels as it reads.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "ltx",
        text_length: int = 128,
        frame_rate: float = 25.0,
        causal_time: bool = False,
        spread: GridSpread = "extrapolate",
    ) -> None:
        parts: Any = model
        config = parts.config
        _check_config(config)
        self.config: dict[str, Any] = dict(config)
        heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
        self.positions = PixelPositions(
            dim=heads * head_dim,
            num_heads=heads,
            frame_rate=frame_rate,
            causal_time=causal_time,
            spread=spread,
        )
        self.shell = LTXShell(model, positions=self.positions)
        self.blocks = [LTXBlock(block) for block in parts.transformer_blocks]
        self.spec = BackboneSpec(
            name=name,
            dim=heads * head_dim,
            num_heads=heads,
            head_dim=head_dim,
            num_blocks=len(self.blocks),
            latent_channels=int(config.in_channels),
            patch_size=(1, 1, 1),
            text_dim=int(config.caption_channels),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            masks_text=True,
        )

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = {key.replace("proj_in.proj.", "proj_in."): value for key, value in shell.items()}
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
        """Velocity by the forward of diffusers; levels per frame become timesteps per token."""
        from diffusers import LTXVideoTransformer3DModel

        if image is not None:
            raise UsageError("image", expected="none", got=str(image.shape))
        dtype = state["proj_out.weight"].dtype
        with torch.device("meta"):
            model = LTXVideoTransformer3DModel.from_config(self.config)
        model.load_state_dict(dict(state), strict=True, assign=True)
        batch, _, frames, height, width = latents.shape
        grid = Grid(frames=frames, height=height, width=width)
        timestep = 1000.0 * sigma.float()
        if sigma.ndim == 2:
            timestep = timestep.repeat_interleave(grid.tokens_per_frame, dim=1)
        group = FrameGroup(name="latents", stream="mv", grid=grid)
        where = self.positions.coordinates(group, 0, Extrapolation()).to(latents.device)
        with torch.no_grad():
            predicted = model(
                latents.to(dtype).flatten(2).transpose(1, 2),
                text.to(dtype),
                timestep,
                None if text_mask is None else text_mask.to(dtype),
                video_coords=where.expand(batch, -1, -1),
                return_dict=False,
            )[0]
        return self.shell.unpatchify(predicted, grid)


def _check_config(config: Any) -> None:
    width = config.num_attention_heads * config.attention_head_dim
    found = {
        "patch_size": (config.patch_size, 1),
        "patch_size_t": (config.patch_size_t, 1),
        "out_channels": (config.out_channels or config.in_channels, config.in_channels),
        "norm_elementwise_affine": (config.norm_elementwise_affine, False),
        "cross_attention_dim": (config.cross_attention_dim, width),
    }
    for name, (got, expected) in found.items():
        if got != expected:
            raise UsageError(f"{name} of the LTX config", expected=str(expected), got=str(got))


def _rms(norm: nn.RMSNorm) -> QKNorm:
    eps = norm.eps
    assert eps is not None
    return QKNorm(weight=norm.weight, eps=eps, kind="rms", scope="inner")
