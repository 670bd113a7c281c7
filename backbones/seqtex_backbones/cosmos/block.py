"""One Cosmos block: three modulated sublayers, each with a low-rank modulation of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from seqtex_core.adapter import TimeEmbedding
from seqtex_core.modulation import RowNorm
from seqtex_core.split_block import SplitCrossBlock, Sublayer, Sublayers

from ..diffusers_parts.attention import TextAttention
from ..diffusers_parts.sublayers import GeluSublayers


class CosmosBlock(GeluSublayers, TextAttention, SplitCrossBlock):
    """Self-attention, cross-attention to text, feed-forward; all three modulated and gated.

    Args:
        block: a diffusers ``CosmosTransformerBlock``; its modules are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.attn1 = parts.attn1
        self.norm2 = parts.norm2
        self.attn2 = parts.attn2
        self.norm3 = parts.norm3
        self.ff = parts.ff
        self.eps = float(parts.norm1.norm.eps)
        self.num_heads = int(parts.attn1.heads)

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """What every sublayer makes of the level, plus what all sublayers of all blocks share."""
        return Sublayers(
            attention=self._sublayer(self.norm1, time),
            cross=self._sublayer(self.norm2, time),
            feed_forward=self._sublayer(self.norm3, time),
        )

    def _sublayer(self, norm: Any, time: TimeEmbedding) -> Sublayer:
        shift, factor, gate = low_rank(norm, time, parts=3)
        return Sublayer(RowNorm(factor, shift, self.eps), gate)


def low_rank(norm: Any, time: TimeEmbedding, *, parts: int) -> tuple[Tensor, ...]:
    """Shift, factor (and gate) of a modulated norm, fp32, each ``[B, F, D]``.

    Args:
        norm: with a low-rank pair of layers, ``linear_1`` and ``linear_2``.
        time: ``embedding`` passes through them, ``projected``, ``[B, F, 3, D]``, is added.
        parts: how many.
    """
    own: Tensor = norm.linear_2(norm.linear_1(time.embedding)).unflatten(-1, (parts, -1))
    return (own + time.projected[..., :parts, :]).unbind(-2)
