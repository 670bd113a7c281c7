"""One CogVideoX block: joint attention and feed-forward, modulated per frame."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from seqtex_core.adapter import RowSublayers, TimeEmbedding
from seqtex_core.split_block import SplitBlock, Sublayer, Sublayers
from seqtex_core.text_rows import SharedTextRows

from ..diffusers_parts.attention import JOINT_SELF_ATTENTION
from ..diffusers_parts.sublayers import GeluSublayers, adaptive, with_weights

_VIDEO, _TEXT = 0, 1  # of the two sets of tables that a norm has


class CogVideoXBlock(GeluSublayers, SplitBlock):
    """Joint attention and feed-forward; text and video share all weights but the modulation.

    The norms have weights, which are made part of the modulation.

    Args:
        block: a diffusers ``CogVideoXBlock``; its modules are taken over.
    """

    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = JOINT_SELF_ATTENTION

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.attn1 = parts.attn1
        self.norm2 = parts.norm2
        self.ff = parts.ff
        self.num_heads = int(parts.attn1.heads)

    def text_rows(self) -> RowSublayers:
        """The same sublayers with the text half of the modulation."""
        return SharedTextRows(self, lambda time: self._modulation(time, _TEXT))

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """The video half of the modulation."""
        return self._modulation(time, _VIDEO)

    def _modulation(self, time: TimeEmbedding, which: int) -> Sublayers:
        return Sublayers(
            attention=_sublayer(self.norm1, time, which),
            feed_forward=_sublayer(self.norm2, time, which),
        )


def _sublayer(norm: Any, time: TimeEmbedding, which: int) -> Sublayer:
    both = adaptive(norm.linear(time.projected), count=2, eps=norm.norm.eps)
    plain, gate = both[which]
    assert plain is not None
    return Sublayer(with_weights(norm.norm, plain), gate)
