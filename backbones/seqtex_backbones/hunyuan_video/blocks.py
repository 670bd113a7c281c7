"""The two kinds of HunyuanVideo blocks: text with weights of its own, text with those of video."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seqtex_core.adapter import BackboneBlock, RowSublayers, TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.kernels.activation import linear_gelu
from seqtex_core.split_block import SplitBlock, Sublayer, Sublayers, read_by, summed
from seqtex_core.text_rows import SharedTextRows

from ..diffusers_parts.attention import AddedRows, ProjectedRows
from ..diffusers_parts.sublayers import GeluSublayers, adaptive

LORA_TARGETS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_mlp",
    "proj_out",
)
"""What reads and writes video rows: the first four and ``ff`` in dual blocks; in single ones the
first three and the last two, which text rows pass through as well."""

EPS = 1e-6
"""Of every LayerNorm; they have no weights."""

_JOINT = (("attn.to_q", "attn.to_k", "attn.to_v"),)


class DualBlock(GeluSublayers, SplitBlock):
    """Joint attention of video and text, each with weights of its own.

    Args:
        block: a diffusers ``HunyuanVideoTransformerBlock``; its modules are taken over.
    """

    common: ClassVar[tuple[str, ...]] = (
        "attn.add_q_proj",
        "attn.norm_added_q",
        "attn.to_add_out",
        "ff_context",
    )
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = (
        *_JOINT,
        ("attn.add_k_proj", "attn.add_v_proj"),
    )

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.norm1_context = parts.norm1_context
        self.attn = parts.attn
        self.ff = parts.ff
        self.ff_context = parts.ff_context
        self.num_heads = int(parts.attn.heads)

    @property
    def attention(self) -> Any:
        """Joint attention."""
        return self.attn

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """Six tables per frame."""
        return _modulation(self.norm1, time)

    def text_rows(self) -> RowSublayers:
        """The same sublayers with the layers of text."""
        return DualText(self)


class DualText(AddedRows, GeluSublayers):
    """What a dual block does to text rows.

    Args:
        block: whose layers they pass through.
    """

    def __init__(self, block: DualBlock) -> None:
        self.block = block
        self.num_heads = block.num_heads

    @property
    def attention(self) -> Any:
        """Joint attention."""
        return self.block.attn

    @property
    def network(self) -> Any:
        """The feed-forward network of text rows."""
        return self.block.ff_context

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """Six tables per frame."""
        return _modulation(self.block.norm1_context, time)


class SingleBlock(ProjectedRows, BackboneBlock):
    """Joint attention and, beside it, a feed-forward; video and text share all weights.

    Args:
        block: a diffusers ``HunyuanVideoSingleTransformerBlock``; its modules are taken over.
    """

    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = _JOINT

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm = parts.norm
        self.attn = parts.attn
        self.proj_mlp = parts.proj_mlp
        self.proj_out = parts.proj_out
        self.num_heads = int(parts.attn.heads)

    @property
    def attention(self) -> Any:
        """Joint attention, which has no output projection."""
        return self.attn

    def text_rows(self) -> RowSublayers:
        """The same sublayers at the level of text."""
        return SharedTextRows(self, self.modulation)

    def modulation(self, time: TimeEmbedding) -> Sublayer:
        """Three tables per frame."""
        (sublayer,) = adaptive(self.norm.linear(time.projected), count=1, eps=EPS)
        return sublayer

    def pre_attention(
        self, hidden_states: Tensor, modulation: Sublayer, rows: StreamLayout
    ) -> Tensor:
        """LayerNorm, modulated, ``[B, L, D]``."""
        return read_by(modulation, hidden_states, rows)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: Sublayer,
        rows: StreamLayout,
    ) -> Tensor:
        """One projection of what attention and the feed-forward give, gate and residual."""
        beside = linear_gelu(normed, self.proj_mlp, approximate="tanh")
        update = self.proj_out(torch.cat([attended.flatten(2), beside], dim=-1))
        return summed(hidden_states, update, modulation.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: Sublayer, rows: StreamLayout
    ) -> Tensor:
        """Nothing: it ran beside attention."""
        del modulation, rows
        return hidden_states


def _modulation(norm: Any, time: TimeEmbedding) -> Sublayers:
    attention, feed_forward = adaptive(norm.linear(time.projected), count=2, eps=EPS)
    return Sublayers(attention=attention, feed_forward=feed_forward)
