"""One LTX-Video block: self-attention, cross-attention and feed-forward, modulated per frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, KeyValue, TextContext, TimeEmbedding
from seqtex_core.attention import Attend
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import per_frame

from ..diffusers_parts.attention import NormScope, attend_to_context, context_key_values
from ..diffusers_parts.sublayers import AdaptiveSublayers, BlockModulation, Modulation, wide


class LTXBlock(AdaptiveSublayers, BackboneBlock):
    """Self-attention, cross-attention to text, feed-forward; the norms are RMS norms.

    Args:
        block: a diffusers ``LTXVideoTransformerBlock``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}
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

    @property
    def attention(self) -> Any:
        """Self-attention."""
        return self.attn1

    @property
    def network(self) -> Any:
        """The feed-forward network."""
        return self.ff

    def modulation(self, time: TimeEmbedding) -> BlockModulation:
        """The block's table plus the time projection, fp32."""
        rows = wide(self.scale_shift_table) + wide(time.projected)
        return BlockModulation.of_tables(rows.unbind(2))

    def normed(self, hidden_states: Tensor, modulation: Modulation, rows: StreamLayout) -> Tensor:
        """RMS norm in fp32, modulated, ``[B, L, D]``."""
        normed = functional.rms_norm(wide(hidden_states), hidden_states.shape[-1:], eps=self.eps)
        shift, factor = modulation.shift, modulation.factor
        moved = per_frame(lambda x, s, f: x * f + s, rows, normed, shift, factor)
        return moved.type_as(hidden_states)

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text; padding is hidden."""
        heads, scope = self.num_heads, self.norm_scope
        return context_key_values(self.attn2, context, num_heads=heads, scope=scope)

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: BlockModulation,
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
