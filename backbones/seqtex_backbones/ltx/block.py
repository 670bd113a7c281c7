"""One LTX-Video block: self-attention, cross-attention and feed-forward, modulated per frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, KeyValue, TextContext, TimeEmbedding
from seqtex_core.attention import Attend
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import RowNorm, per_frame
from seqtex_core.split_block import Sublayers, summed

from ..diffusers_parts.attention import (
    JOINT_ATTENTION,
    NormScope,
    attend_to_context,
    context_key_values,
)
from ..diffusers_parts.sublayers import GeluSublayers, two_adaptive, wide


class LTXBlock(GeluSublayers, BackboneBlock):
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

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """The block's table plus the time projection, fp32."""
        rows = wide(self.scale_shift_table) + wide(time.projected)
        return two_adaptive(rows.unbind(2), eps=self.eps)

    def pre_attention(
        self, hidden_states: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        """RMS norm in fp32, modulated, ``[B, L, D]``."""
        return _normed(hidden_states, modulation.attention.norm, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        """GELU network behind an RMS norm, gated."""
        norm, gate = modulation.feed_forward
        update = self.feed_forward_update(_normed(hidden_states, norm, rows))
        return summed(hidden_states, update, gate, rows)

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text; padding is hidden."""
        heads, scope = self.num_heads, self.norm_scope
        return context_key_values(self.attn2, context, num_heads=heads, scope=scope)

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: Sublayers,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """Of the residual stream as it is: without norm, modulation and gate."""
        del modulation, rows
        (text,) = key_values
        scope = self.norm_scope
        return hidden_states + attend_to_context(
            self.attn2, hidden_states, text, attend, scope=scope
        )


def _normed(hidden_states: Tensor, norm: RowNorm, rows: StreamLayout) -> Tensor:
    factor, shift, eps = norm
    unit = functional.rms_norm(wide(hidden_states), hidden_states.shape[-1:], eps=eps)
    moved = per_frame(lambda x, s, f: x * f + s, rows, unit, shift, factor)
    return moved.type_as(hidden_states)
