"""One Mochi block: joint attention of video and narrower text, gated by tangents per frame."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, RowSublayers, TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import gated_residual, per_frame

from ..diffusers_parts.attention import JOINT_SELF_ATTENTION, AddedRows, ProjectedRows
from ..diffusers_parts.sublayers import wide


class MochiModulation(NamedTuple):
    """Factor and gate of attention, then of the feed-forward; each ``[B, F, D]``, fp32.

    The factors are 1 plus the model's scales.
    """

    factor: Tensor
    gate: Tensor
    ff_factor: Tensor
    ff_gate: Tensor

    @classmethod
    def of_tables(cls, tables: Tensor) -> MochiModulation:
        """From scale and gate of both sublayers, ``[B, F, 4 D]``."""
        scale, gate, ff_scale, ff_gate = wide(tables).chunk(4, dim=-1)
        return cls(1 + scale, gate.tanh(), 1 + ff_scale, ff_gate.tanh())


class MochiSublayers(ProjectedRows):
    """Attention and feed-forward between two RMS norms each, one scaled and one gated.

    Attributes:
        eps: of the norms, which have no weights.
    """

    eps: float

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The feed-forward sublayer: gated linear units."""

    @abstractmethod
    def modulation(self, time: TimeEmbedding) -> MochiModulation:
        """Of both sublayers, one row per frame."""

    def pre_attention(
        self, hidden_states: Tensor, modulation: MochiModulation, rows: StreamLayout
    ) -> Tensor:
        """RMS norm and factor, ``[B, L, D]``."""
        return scaled_norm(hidden_states, modulation.factor, rows, eps=self.eps)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: MochiModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, norm, gate and residual."""
        del normed
        update = wide_norm(self.attention_output(attended), eps=self.eps)
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: MochiModulation, rows: StreamLayout
    ) -> Tensor:
        """Gated linear units between a scaled and a gated norm."""
        normed = scaled_norm(hidden_states, modulation.ff_factor, rows, eps=self.eps)
        update = wide_norm(self.network(normed), eps=self.eps)
        return gated_residual(hidden_states, update, modulation.ff_gate, rows)


class MochiBlock(MochiSublayers, BackboneBlock):
    """Joint attention of video and text, each with weights and a width of its own.

    Args:
        block: a diffusers ``MochiTransformerBlock``; its modules are taken over.
    """

    common: ClassVar[tuple[str, ...]] = (
        "attn1.add_q_proj",
        "attn1.norm_added_q",
        "attn1.to_add_out",
        "ff_context",
    )
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = (
        *JOINT_SELF_ATTENTION,
        ("attn1.add_k_proj", "attn1.add_v_proj"),
    )

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.norm1_context = parts.norm1_context
        self.attn1 = parts.attn1
        self.ff = parts.ff
        self.ff_context = parts.ff_context
        self.eps = float(parts.norm1.norm.eps)
        self.num_heads = int(parts.attn1.heads)

    @property
    def network(self) -> nn.Module:
        """The feed-forward network of video rows."""
        network: nn.Module = self.ff
        return network

    def modulation(self, time: TimeEmbedding) -> MochiModulation:
        """Four tables per frame."""
        return MochiModulation.of_tables(self.norm1.linear(time.projected))

    def text_rows(self) -> RowSublayers:
        """The same sublayers with the layers of text."""
        return MochiText(self)


class MochiLastBlock(MochiBlock):
    """The last block, which reads text and does not write it."""

    common: ClassVar[tuple[str, ...]] = ("attn1.add_q_proj", "attn1.norm_added_q")

    def text_rows(self) -> RowSublayers:
        """Text as it is read."""
        return MochiLastText(self)


class MochiText(AddedRows, MochiSublayers):
    """What a block does to text rows.

    Args:
        block: whose layers they pass through.
    """

    def __init__(self, block: MochiBlock) -> None:
        self.block = block
        self.num_heads = block.num_heads
        self.eps = block.eps

    @property
    def attention(self) -> Any:
        """Joint attention."""
        return self.block.attn1

    @property
    def network(self) -> nn.Module:
        """The feed-forward network of text rows."""
        network: nn.Module = self.block.ff_context
        return network

    def modulation(self, time: TimeEmbedding) -> MochiModulation:
        """Four tables per frame."""
        return MochiModulation.of_tables(self.block.norm1_context.linear(time.projected))


class MochiLastText(MochiText):
    """What the last block does to text rows: they are read, and come out as they were."""

    def modulation(self, time: TimeEmbedding) -> MochiModulation:
        """One table; nothing passes the gates."""
        scale = wide(self.block.norm1_context.linear_1(time.projected))
        closed = torch.zeros_like(scale)
        return MochiModulation(1 + scale, closed, closed, closed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: MochiModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """The rows as they are."""
        del attended, normed, modulation, rows
        return hidden_states

    def feed_forward(
        self, hidden_states: Tensor, modulation: MochiModulation, rows: StreamLayout
    ) -> Tensor:
        """The rows as they are."""
        del modulation, rows
        return hidden_states


def wide_norm(rows: Tensor, *, eps: float) -> Tensor:
    """RMS norm without weights, fp32."""
    return functional.rms_norm(wide(rows), rows.shape[-1:], eps=eps)


def scaled_norm(hidden_states: Tensor, factor: Tensor, rows: StreamLayout, *, eps: float) -> Tensor:
    """RMS norm times a factor per frame, ``[B, L, D]`` in the dtype of the stream."""
    normed = wide_norm(hidden_states, eps=eps)
    return per_frame(torch.mul, rows, normed, factor).type_as(hidden_states)
