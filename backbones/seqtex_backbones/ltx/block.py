"""One LTX-Video block: self-attention, cross-attention and feed-forward, modulated per frame."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from seqtex_core.split_block import SplitCrossBlock, Sublayer, Sublayers

from ..diffusers_parts.attention import NormScope, TextAttention
from ..diffusers_parts.sublayers import TableSublayers, two_adaptive


class LTXBlock(TableSublayers, TextAttention, SplitCrossBlock):
    """Self-attention, cross-attention to text, feed-forward; the norms are RMS norms.

    Args:
        block: a diffusers ``LTXVideoTransformerBlock``; its modules are taken over.
    """

    norm_scope: ClassVar[NormScope] = "inner"

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.attn1 = parts.attn1
        self.attn2 = parts.attn2
        self.ff = parts.ff
        self.eps = float(parts.norm1.eps)
        self.num_heads = int(parts.attn1.heads)

    def around(self, tables: tuple[Tensor, ...]) -> Sublayers:
        """Cross-attention reads the stream itself, and has no gate."""
        return two_adaptive(tables, eps=self.eps, kind="rms", cross=Sublayer(None))
