"""One Wan block: self-attention, cross-attention and feed-forward of the rows of one stream.

Source:
    Wan (arXiv 2503.20314), section 4.2; diffusers' implementation for the order of roundings.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from seqtex_core.adapter import KeyValue, TextContext
from seqtex_core.joint_projection import project
from seqtex_core.modulation import RowNorm
from seqtex_core.split_block import SplitCrossBlock, Sublayer, Sublayers

from ..diffusers_parts.attention import (
    JOINT_ATTENTION,
    NormScope,
    TextAttention,
    qk_norm,
)
from ..diffusers_parts.sublayers import TableSublayers, two_adaptive

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)


class WanBlock(TableSublayers, TextAttention, SplitCrossBlock):
    """Self-attention, cross-attention to text, feed-forward; modulated per frame.

    Args:
        block: a diffusers ``WanTransformerBlock``; its modules are taken over.
    """

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

    def around(self, tables: tuple[Tensor, ...]) -> Sublayers:
        """Cross-attention has a norm with weights, and no gate."""
        own = RowNorm(self.norm2.weight, self.norm2.bias, self.norm2.eps)
        return two_adaptive(tables, eps=self.eps, cross=Sublayer(own))

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text and, for image-to-video models, of the image."""
        of_text = super().cross_key_values(context)
        if context.image is None:
            return of_text
        attn = self.attn2
        key, value = project(context.image, (attn.add_k_proj, attn.add_v_proj))
        norm = qk_norm(attn.norm_added_k, self.norm_scope)
        return *of_text, KeyValue.of(key, value, norm, num_heads=self.num_heads)
