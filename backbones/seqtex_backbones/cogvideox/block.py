"""One CogVideoX block: joint attention and feed-forward, modulated per frame."""

from __future__ import annotations

from typing import Any

from torch import nn

from seqtex_core.adapter import BackboneBlock, RowSublayers, TimeEmbedding
from seqtex_core.text_rows import SharedTextRows

from ..diffusers_parts.sublayers import AdaptiveSublayers, BlockModulation, Modulation

_VIDEO, _TEXT = slice(3), slice(3, 6)  # among the tables of a norm


class CogVideoXBlock(AdaptiveSublayers, BackboneBlock):
    """Joint attention and feed-forward; text and video share all weights but the modulation.

    The norms have weights, which are made part of the modulation.

    Args:
        block: a diffusers ``CogVideoXBlock``; its modules are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.attn1 = parts.attn1
        self.norm2 = parts.norm2
        self.ff = parts.ff
        self.eps = float(parts.norm1.norm.eps)
        self.num_heads = int(parts.attn1.heads)

    @property
    def attention(self) -> Any:
        """Joint attention."""
        return self.attn1

    @property
    def network(self) -> Any:
        """The feed-forward network."""
        return self.ff

    def text_rows(self) -> RowSublayers:
        """The same sublayers with the text half of the modulation."""
        return SharedTextRows(self, lambda time: self._modulation(time, _TEXT))

    def modulation(self, time: TimeEmbedding) -> BlockModulation:
        """The video half of the modulation."""
        return self._modulation(time, _VIDEO)

    def _modulation(self, time: TimeEmbedding, tables: slice) -> BlockModulation:
        attention, feed_forward = (
            Modulation.of(*norm.linear(time.projected).chunk(6, dim=-1)[tables])
            for norm in (self.norm1, self.norm2)
        )
        return BlockModulation(
            attention=attention.with_norm(self.norm1.norm),
            feed_forward=feed_forward.with_norm(self.norm2.norm),
        )
