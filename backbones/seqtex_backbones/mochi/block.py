"""One Mochi block: joint attention of video and narrower text, gated by tangents per frame."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import RowSublayers, TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import RowNorm
from seqtex_core.split_block import SplitBlock, SplitRows, Sublayer, Sublayers

from ..diffusers_parts.attention import JOINT_SELF_ATTENTION, AddedRows, ProjectedRows
from ..diffusers_parts.sublayers import wide


class MochiSublayers(ProjectedRows, SplitRows):
    """Attention and feed-forward between two RMS norms each, one scaled and one gated.

    Attributes:
        eps: of the norms, which have no weights.
    """

    eps: float

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The feed-forward sublayer: gated linear units."""

    def attention_update(self, attended: Tensor) -> Tensor:
        """Output projection and norm, fp32."""
        return self._normed(self.attention_output(attended))

    def feed_forward_update(self, normed: Tensor) -> Tensor:
        """Gated linear units and norm, fp32."""
        return self._normed(self.network(normed))

    def _normed(self, update: Tensor) -> Tensor:
        return functional.rms_norm(wide(update), update.shape[-1:], eps=self.eps)

    def _sublayers(self, tables: Tensor) -> Sublayers:
        """From scale and gate of both sublayers, ``[B, F, 4 D]``."""
        scale, gate, ff_scale, ff_gate = wide(tables).chunk(4, dim=-1)
        return Sublayers(
            attention=Sublayer(self._scaled(scale), gate.tanh()),
            feed_forward=Sublayer(self._scaled(ff_scale), ff_gate.tanh()),
        )

    def _scaled(self, scale: Tensor) -> RowNorm:
        return RowNorm(1 + scale, torch.zeros_like(scale), self.eps, "rms")


class MochiBlock(MochiSublayers, SplitBlock):
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

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """Four tables per frame."""
        return self._sublayers(self.norm1.linear(time.projected))

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

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """Four tables per frame."""
        return self._sublayers(self.block.norm1_context.linear(time.projected))


class MochiLastText(MochiText):
    """What the last block does to text rows: they are read, and come out as they were."""

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """One table, for what is read."""
        scale = wide(self.block.norm1_context.linear_1(time.projected))
        return Sublayers(attention=Sublayer(self._scaled(scale)), feed_forward=Sublayer(None))

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: Sublayers,
        rows: StreamLayout,
    ) -> Tensor:
        """The rows as they are."""
        del attended, normed, modulation, rows
        return hidden_states

    def feed_forward(
        self, hidden_states: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        """The rows as they are."""
        del modulation, rows
        return hidden_states
