"""SketchDiT, taken apart: its own submodules under their own names, and the order they run in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import (
    Backbone,
    BackboneShell,
    BackboneSpec,
    KeyValue,
    TextContext,
    TimeEmbedding,
)
from seqtex_core.attention import Attend
from seqtex_core.errors import UsageError
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.joint_projection import project
from seqtex_core.modulation import RowNorm, modulated_norm
from seqtex_core.query_key import QKNorm, qk_prep
from seqtex_core.rope import Rope, RopeSpec, rope_table, wan_axis_dims
from seqtex_core.split_block import SplitCrossBlock, Sublayer, Sublayers

from .model import Block, SketchDiT

EPS = 1e-5
"""Of the norms that have no weights."""


class SketchBlock(SplitCrossBlock):
    """What each sublayer computes between its norm and its sum; the library does the rest."""

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("text_attn",)}
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("attn.q", "attn.k", "attn.v"),
        ("text_attn.k", "text_attn.v"),
    )

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

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """Norms and gates, a row per frame; attention to the text has a norm of its own alone."""
        shift, scale, gate, *of_ffn = self.tables(time.projected).float().chunk(6, dim=-1)
        text = RowNorm(self.text_norm.weight, self.text_norm.bias, self.text_norm.eps)
        return Sublayers(
            attention=Sublayer(RowNorm(1 + scale, shift, EPS), gate),
            cross=Sublayer(text),
            feed_forward=Sublayer(RowNorm(1 + of_ffn[1], of_ffn[0], EPS), of_ffn[2]),
        )

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries."""
        projected: Tensor = self.attn.q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values."""
        key, value = project(normed, (self.attn.k, self.attn.v))
        return key, value

    def attention_update(self, attended: Tensor) -> Tensor:
        """Output projection."""
        update: Tensor = self.attn.out(attended.flatten(2))
        return update

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text."""
        attn, heads = self.text_attn, self.num_heads
        key, value = project(context.text, (attn.k, attn.v))
        norm, mask = _norm(attn.k_norm), context.key_mask
        return (KeyValue.of(key, value, norm, num_heads=heads, mask=mask),)

    def cross_update(
        self, normed: Tensor, key_values: tuple[KeyValue, ...], attend: Attend
    ) -> Tensor:
        """Attention to the text."""
        attn, (text,) = self.text_attn, key_values
        query = qk_prep(attn.q(normed), _norm(attn.q_norm), num_heads=self.num_heads)
        update: Tensor = attn.out(attend(query, text.key, text.value, mask=text.mask).flatten(2))
        return update

    def feed_forward_update(self, normed: Tensor) -> Tensor:
        """Feed-forward network."""
        update: Tensor = self.ffn(normed)
        return update


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
        normed = modulated_norm(hidden_states, shift, 1 + scale, rows, eps=EPS)
        tokens: Tensor = self.patch_out(normed)
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
