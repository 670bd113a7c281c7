"""One Wan block: self-attention, cross-attention and feed-forward of the rows of one stream.

Source:
    Wan (arXiv 2503.20314), section 4.2; diffusers' implementation for the order of roundings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seqtex_core.adapter import BackboneBlock, KeyValue, TextContext, TimeEmbedding
from seqtex_core.attention import Attend
from seqtex_core.joint_projection import project
from seqtex_core.modulation import RowNorm
from seqtex_core.split_block import SplitCrossBlock, Sublayer, Sublayers

from ..diffusers_parts.attention import (
    JOINT_ATTENTION,
    NormScope,
    attend_to_context,
    context_key_values,
    qk_norm,
)
from ..diffusers_parts.sublayers import GeluSublayers

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)


FACTORS = slice(1, None, 3)
"""The factors among a block's six values: shift, factor, gate of self-attention, then of the
feed-forward. The factors are 1 plus what the weights say."""


class WanBlock(GeluSublayers, SplitCrossBlock):
    """Self-attention, cross-attention to text, feed-forward; modulated per frame.

    Args:
        block: a diffusers ``WanTransformerBlock``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = (
        *JOINT_ATTENTION,
        ("attn2.add_k_proj", "attn2.add_v_proj"),
    )
    norm_scope: ClassVar[NormScope] = "inner"

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.scale_shift_table: nn.Parameter = parts.scale_shift_table
        self.attn1 = parts.attn1
        self.attn2 = parts.attn2
        self.norm2 = parts.norm2
        self.ffn = parts.ffn
        self.eps = float(parts.norm1.eps)
        self.num_heads = int(parts.attn1.heads)

    @property
    def network(self) -> Any:
        """The feed-forward network."""
        return self.ffn

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """The block's table plus the time projection, fp32; cross-attention has neither."""
        return self._sublayers(self.scale_shift_table.float().unsqueeze(0) + time.projected)

    @classmethod
    def modulations(
        cls, blocks: Sequence[BackboneBlock], time: TimeEmbedding
    ) -> list[Sublayers] | None:
        """All tables plus the time projection in one sum."""
        wan = [block for block in blocks if isinstance(block, WanBlock)]
        tables: list[Tensor] = [block.scale_shift_table for block in wan]
        if len(wan) < len(blocks) or any(t.device != time.projected.device for t in tables):
            return None
        sums = torch.stack(tables).float().unsqueeze(1) + time.projected
        return [block._sublayers(rows) for block, rows in zip(wan, sums, strict=True)]

    def _sublayers(self, rows: Tensor) -> Sublayers:
        """From the six values of each frame, ``[B, F, 6, D]``."""
        shift, factor, gate, ffn_shift, ffn_factor, ffn_gate = rows.unbind(2)
        own = RowNorm(self.norm2.weight, self.norm2.bias, self.norm2.eps)
        return Sublayers(
            attention=Sublayer(RowNorm(factor, shift, self.eps), gate),
            cross=Sublayer(own),
            feed_forward=Sublayer(RowNorm(ffn_factor, ffn_shift, self.eps), ffn_gate),
        )

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text and, for image-to-video models, of the image."""
        heads, scope, attn = self.num_heads, self.norm_scope, self.attn2
        of_text = context_key_values(attn, context, num_heads=heads, scope=scope)
        if context.image is None:
            return of_text
        key, value = project(context.image, (attn.add_k_proj, attn.add_v_proj))
        norm = qk_norm(attn.norm_added_k, scope)
        return *of_text, KeyValue.of(key, value, norm, num_heads=heads)

    def cross_update(
        self, normed: Tensor, key_values: tuple[KeyValue, ...], attend: Attend
    ) -> Tensor:
        """Attention to text and image, summed and projected."""
        return attend_to_context(self.attn2, normed, key_values, attend, scope=self.norm_scope)
