"""SketchDiT, taken apart: its own submodules under their own names, and the order they run in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

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
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import gated_residual, modulate
from seqtex_core.query_key import QKNorm, qk_prep
from seqtex_core.rope import Rope, RopeSpec, rope_table, wan_axis_dims

from .model import Block, SketchDiT


class Tables(NamedTuple):
    """Shift, scale and gate of attention, then of the feed-forward; each ``[B, F, D]``, fp32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
    ffn_gate: Tensor


class SketchBlock(BackboneBlock):
    """One block; frames keep their tables apart, no table is expanded to tokens."""

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("text_attn",)}

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, Block)
        self.attn, self.text_attn = block.attn, block.text_attn
        self.text_norm, self.ffn, self.tables = block.text_norm, block.ffn, block.tables
        self.num_heads = block.attn.heads

    @property
    def q_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return _norm(self.attn.q_norm)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return _norm(self.attn.k_norm)

    def modulation(self, time: TimeEmbedding) -> Tables:
        """The six tables of every frame."""
        return Tables(*self.tables(time.projected).float().chunk(6, dim=-1))

    def pre_attention(
        self, hidden_states: Tensor, modulation: Tables, rows: StreamLayout
    ) -> Tensor:
        """Input of self-attention."""
        return _shifted_norm(hidden_states, modulation.shift, modulation.scale, rows)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries."""
        projected: Tensor = self.attn.q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values."""
        return self.attn.k(normed), self.attn.v(normed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: Tables,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate, residual."""
        del normed
        update = self.attn.out(attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text."""
        attn, text = self.text_attn, context.text
        norm, heads, mask = _norm(attn.k_norm), self.num_heads, context.key_mask
        return (KeyValue.of(attn.k(text), attn.v(text), norm, num_heads=heads, mask=mask),)

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: Tables,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """Attention to the text, not modulated."""
        del modulation, rows
        attn, (text,) = self.text_attn, key_values
        projected = attn.q(self.text_norm(hidden_states))
        query = qk_prep(projected, _norm(attn.q_norm), num_heads=self.num_heads)
        attended = attend(query, text.key, text.value, mask=text.mask)
        update: Tensor = attn.out(attended.flatten(2))
        return hidden_states + update

    def feed_forward(self, hidden_states: Tensor, modulation: Tables, rows: StreamLayout) -> Tensor:
        """Feed-forward, gate, residual."""
        shift, scale = modulation.ffn_shift, modulation.ffn_scale
        update = self.ffn(_shifted_norm(hidden_states, shift, scale, rows))
        return gated_residual(hidden_states, update, modulation.ffn_gate, rows)


class SketchShell(BackboneShell):
    """What surrounds the blocks."""

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_in",),
        "time_text": ("time_in", "text_in"),
        "proj_out": ("patch_out",),
    }

    def __init__(self, model: SketchDiT) -> None:
        super().__init__()
        self.patch_in, self.time_in, self.text_in = model.patch_in, model.time_in, model.text_in
        self.last_tables, self.patch_out = model.last_tables, model.patch_out
        head_dim = model.config["dim"] // model.config["heads"]
        self.rope_spec = RopeSpec(axis_dims=wan_axis_dims(head_dim), pairing="half")

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens; ``x_t`` of the model is ``x_sigma`` of the library."""
        del sigma
        tokens: Tensor = self.patch_in(latents)
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding."""
        return copy.deepcopy(self.patch_in)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """The model's time is ``1 - sigma``; it has no use for a summary of the text."""
        del pooled
        time = functional.silu(self.time_in(1.0 - sigma.float()))
        return TimeEmbedding(embedding=time, projected=time)

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Text rows at the model's width."""
        if image is not None or pooled is not None:
            raise UsageError("text", expected="rows alone", got="an image or a summary")
        return TextContext(text=self.text_in(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Integer positions on every group's own grid."""
        return {str(stream): rope for stream, rope in rope_table(layout, self.rope_spec).items()}

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Last norm and projection; token vectors are ``(C, ph, pw)``."""
        shift, scale = self.last_tables(time.embedding).float().chunk(2, dim=-1)
        tokens: Tensor = self.patch_out(_shifted_norm(hidden_states, shift, scale, rows))
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Prediction ``[B, C, F, H, W]``."""
        blocks: Tensor = tokens.unflatten(-1, (-1, 2, 2))
        blocks = blocks.unflatten(1, (grid.frames, grid.height, grid.width))
        latents: Tensor = blocks.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return latents

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """The model's velocity points from noise to data, the library's the other way."""
        del latents, sigma
        return -prediction


class SketchBackbone(Backbone):
    """SketchDiT as a backbone.

    Args:
        model: its modules are taken over.
    """

    def __init__(self, model: SketchDiT) -> None:
        self.config = model.config
        self.shell = SketchShell(model)
        self.blocks = [SketchBlock(block) for block in model.blocks]
        self.spec = BackboneSpec(
            name="sketch-dit",
            dim=self.config["dim"],
            num_heads=self.config["heads"],
            head_dim=self.config["dim"] // self.config["heads"],
            num_blocks=self.config["depth"],
            latent_channels=self.config["channels"],
            patch_size=(1, 2, 2),
            text_dim=self.config["text_dim"],
            text_length=8,
            lora_targets=("attn.q", "attn.k", "attn.v", "attn.out", "ffn.0", "ffn.2"),
        )

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Names inside the original model."""
        named = dict(shell)
        for index, block in enumerate(blocks):
            named |= {f"blocks.{index}.{key}": value for key, value in block.items()}
        return named

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
        """The original forward, in the library's convention."""
        if any(extra is not None for extra in (image, text_mask, pooled_text)):
            raise UsageError("reference_velocity", expected="latents and text", got="more")
        dtype = state["patch_out.weight"].dtype
        with torch.device("meta"):
            model = SketchDiT(**self.config)
        model.load_state_dict(dict(state), strict=True, assign=True)
        with torch.no_grad():
            predicted: Tensor = model(latents.to(dtype), 1.0 - sigma, text.to(dtype))
        return -predicted


def _norm(layer: nn.RMSNorm) -> QKNorm:
    return QKNorm(weight=layer.weight, eps=1e-6, kind="rms", scope="head")


def _shifted_norm(x: Tensor, shift: Tensor, scale: Tensor, rows: StreamLayout) -> Tensor:
    normed = functional.layer_norm(x.float(), x.shape[-1:])
    return modulate(normed, shift, scale, rows).type_as(x)
