"""One Mochi block: joint attention of video and narrower text, gated by tangents per frame."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, RowSublayers, TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import gated_residual, per_frame
from seqtex_core.qk_prep import QKNorm

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)


class MochiModulation(NamedTuple):
    """Scale and gate of attention, then of the feed-forward; each ``[B, F, D]``, fp32."""

    scale: Tensor
    gate: Tensor
    ff_scale: Tensor
    ff_gate: Tensor


class MochiParts(NamedTuple):
    """The layers that rows of one kind pass through; no ``to_out`` and ``ff`` where they end."""

    modulation: nn.Linear
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Module | None
    norm_q: nn.Module
    norm_k: nn.Module
    ff: nn.Module | None


class MochiSublayers(RowSublayers):
    """Attention and feed-forward; the same for video and text but for the layers.

    There are norms before both sublayers, scaled, and after both, gated; none has weights.
    """

    eps: float

    @property
    def parts(self) -> MochiParts:
        """The layers."""
        raise NotImplementedError

    @property
    def q_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return _per_head(self.parts.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return _per_head(self.parts.norm_k)

    def modulation(self, time: TimeEmbedding) -> MochiModulation:
        """Four tables per frame; one and no gates for rows that end."""
        tables: Tensor = self.parts.modulation(time.projected).float()
        if self.parts.ff is None:
            closed = torch.zeros_like(tables)
            return MochiModulation(tables, closed, closed, closed)
        scale, gate, ff_scale, ff_gate = tables.chunk(4, dim=-1)
        return MochiModulation(scale, gate.tanh(), ff_scale, ff_gate.tanh())

    def pre_attention(
        self, hidden_states: Tensor, modulation: MochiModulation, rows: StreamLayout
    ) -> Tensor:
        """RMS norm and scale, ``[B, L, D]``."""
        return self._scaled_norm(hidden_states, modulation.scale, rows)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries, ``[B, L, N*D]``."""
        projected: Tensor = self.parts.to_q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values, each ``[B, L, N*D]``."""
        parts = self.parts
        return parts.to_k(normed), parts.to_v(normed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: MochiModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, norm, gate and residual."""
        del normed
        to_out = self.parts.to_out
        if to_out is None:
            return hidden_states
        update = self._norm(to_out(attended.flatten(2)))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: MochiModulation, rows: StreamLayout
    ) -> Tensor:
        """Gated linear units between a scaled and a gated norm."""
        ff = self.parts.ff
        if ff is None:
            return hidden_states
        update = self._norm(ff(self._scaled_norm(hidden_states, modulation.ff_scale, rows)))
        return gated_residual(hidden_states, update, modulation.ff_gate, rows)

    def _norm(self, x: Tensor) -> Tensor:
        """In fp32."""
        return functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps)

    def _scaled_norm(self, x: Tensor, scale: Tensor, rows: StreamLayout) -> Tensor:
        scaled = per_frame(lambda normed, c: normed * (1 + c), rows, self._norm(x), scale)
        return scaled.type_as(x)


class MochiBlock(MochiSublayers, BackboneBlock):
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
    def parts(self) -> MochiParts:
        """Those of video."""
        attn = self.attn1
        return MochiParts(
            modulation=self.norm1.linear,
            to_q=attn.to_q,
            to_k=attn.to_k,
            to_v=attn.to_v,
            to_out=attn.to_out[0],
            norm_q=attn.norm_q,
            norm_k=attn.norm_k,
            ff=self.ff,
        )

    def text_rows(self) -> RowSublayers:
        """The same sublayers with the layers of text."""
        return MochiText(self)


class MochiLastBlock(MochiBlock):
    """The last block, which reads text and does not write it."""

    common: ClassVar[tuple[str, ...]] = ("attn1.add_q_proj", "attn1.norm_added_q")


class MochiText(MochiSublayers):
    """What a block does to text rows."""

    def __init__(self, block: MochiBlock) -> None:
        self.block = block
        self.num_heads = block.num_heads
        self.eps = block.eps

    @property
    def parts(self) -> MochiParts:
        """Those of text."""
        attn, norm = self.block.attn1, self.block.norm1_context
        ends = isinstance(self.block, MochiLastBlock)
        return MochiParts(
            modulation=norm.linear_1 if ends else norm.linear,
            to_q=attn.add_q_proj,
            to_k=attn.add_k_proj,
            to_v=attn.add_v_proj,
            to_out=None if ends else attn.to_add_out,
            norm_q=attn.norm_added_q,
            norm_k=attn.norm_added_k,
            ff=self.block.ff_context,
        )


def _per_head(norm: Any) -> QKNorm:
    return QKNorm(weight=norm.weight, eps=norm.eps, kind="rms", scope="head")
