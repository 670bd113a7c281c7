"""One LTX-Video block: self-attention, cross-attention and feed-forward, modulated per frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from seqtex_core.adapter import KeyValue, TextContext
from seqtex_core.attention import Attend
from seqtex_core.split_block import SplitCrossBlock, Sublayer, Sublayers

from ..diffusers_parts.attention import (
    JOINT_ATTENTION,
    NormScope,
    attend_to_context,
    context_key_values,
)
from ..diffusers_parts.sublayers import TableSublayers, two_adaptive


class LTXBlock(TableSublayers, SplitCrossBlock):
    """Self-attention, cross-attention to text, feed-forward; the norms are RMS norms.

    Args:
        block: a diffusers ``LTXVideoTransformerBlock``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = JOINT_ATTENTION
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
        return two_adaptive(tables, eps=self.eps, kind="rms")._replace(cross=Sublayer(None))

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text; padding is hidden."""
        heads, scope = self.num_heads, self.norm_scope
        return context_key_values(self.attn2, context, num_heads=heads, scope=scope)

    def cross_update(
        self, normed: Tensor, key_values: tuple[KeyValue, ...], attend: Attend
    ) -> Tensor:
        """Attention to the text, projected."""
        return attend_to_context(self.attn2, normed, key_values, attend, scope=self.norm_scope)
