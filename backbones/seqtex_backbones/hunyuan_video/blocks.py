"""The two kinds of HunyuanVideo blocks: text with weights of its own, text with those of video."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, RowSublayers, TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import gated_residual, modulate
from seqtex_core.qk_prep import QKNorm
from seqtex_core.text_rows import SharedTextRows

LORA_TARGETS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_mlp",
    "proj_out",
)
"""What reads and writes video rows: the first four and ``ff`` in dual blocks; in single ones the
first three and the last two, which text rows pass through as well."""

EPS = 1e-6
"""Of every LayerNorm; they have no weights."""


class DualModulation(NamedTuple):
    """Shift, scale and gate of attention, then of the feed-forward; each ``[B, F, D]``, fp32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor
    ff_shift: Tensor
    ff_scale: Tensor
    ff_gate: Tensor


class DualParts(NamedTuple):
    """The layers that rows of one kind pass through in a dual block."""

    modulation: nn.Linear
    to_q: nn.Linear
    to_k: nn.Linear
    to_v: nn.Linear
    to_out: nn.Linear
    norm_q: nn.Module
    norm_k: nn.Module
    ff: nn.Module


class DualSublayers(RowSublayers):
    """Attention and feed-forward, modulated; the same for video and text but for the layers."""

    @property
    def parts(self) -> DualParts:
        """The layers."""
        raise NotImplementedError

    @property
    def q_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return per_head(self.parts.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return per_head(self.parts.norm_k)

    def modulation(self, time: TimeEmbedding) -> DualModulation:
        """Six tables per frame."""
        return DualModulation(*self.parts.modulation(time.projected).float().chunk(6, dim=-1))

    def pre_attention(
        self, hidden_states: Tensor, modulation: DualModulation, rows: StreamLayout
    ) -> Tensor:
        """LayerNorm, shift and scale, ``[B, L, D]``."""
        return modulated_norm(hidden_states, modulation.shift, modulation.scale, rows)

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
        modulation: DualModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate and residual."""
        del normed
        update = self.parts.to_out(attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: DualModulation, rows: StreamLayout
    ) -> Tensor:
        """GELU network, modulated and gated."""
        normed = modulated_norm(hidden_states, modulation.ff_shift, modulation.ff_scale, rows)
        return gated_residual(hidden_states, self.parts.ff(normed), modulation.ff_gate, rows)


class DualBlock(DualSublayers, BackboneBlock):
    """Joint attention of video and text, each with weights of its own.

    Args:
        block: a diffusers ``HunyuanVideoTransformerBlock``; its modules are taken over.
    """

    common: ClassVar[tuple[str, ...]] = (
        "attn.add_q_proj",
        "attn.norm_added_q",
        "attn.to_add_out",
        "ff_context",
    )

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.norm1_context = parts.norm1_context
        self.attn = parts.attn
        self.ff = parts.ff
        self.ff_context = parts.ff_context
        self.num_heads = int(parts.attn.heads)

    @property
    def parts(self) -> DualParts:
        """Those of video."""
        attn = self.attn
        return DualParts(
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
        return DualText(self)


class DualText(DualSublayers):
    """What a dual block does to text rows."""

    def __init__(self, block: DualBlock) -> None:
        self.block = block
        self.num_heads = block.num_heads

    @property
    def parts(self) -> DualParts:
        """Those of text."""
        attn = self.block.attn
        return DualParts(
            modulation=self.block.norm1_context.linear,
            to_q=attn.add_q_proj,
            to_k=attn.add_k_proj,
            to_v=attn.add_v_proj,
            to_out=attn.to_add_out,
            norm_q=attn.norm_added_q,
            norm_k=attn.norm_added_k,
            ff=self.block.ff_context,
        )


class SingleModulation(NamedTuple):
    """Shift and scale before the block, gate after it; each ``[B, F, D]``, fp32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class SingleBlock(BackboneBlock):
    """Joint attention and, beside it, a feed-forward; video and text share all weights.

    Args:
        block: a diffusers ``HunyuanVideoSingleTransformerBlock``; its modules are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm = parts.norm
        self.attn = parts.attn
        self.proj_mlp = parts.proj_mlp
        self.proj_out = parts.proj_out
        self.num_heads = int(parts.attn.heads)

    @property
    def q_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return per_head(self.attn.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return per_head(self.attn.norm_k)

    def text_rows(self) -> RowSublayers:
        """The same sublayers at the level of text."""
        return SharedTextRows(self, self.modulation)

    def modulation(self, time: TimeEmbedding) -> SingleModulation:
        """Three tables per frame."""
        return SingleModulation(*self.norm.linear(time.projected).float().chunk(3, dim=-1))

    def pre_attention(
        self, hidden_states: Tensor, modulation: SingleModulation, rows: StreamLayout
    ) -> Tensor:
        """LayerNorm, shift and scale, ``[B, L, D]``."""
        return modulated_norm(hidden_states, modulation.shift, modulation.scale, rows)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries, ``[B, L, N*D]``."""
        projected: Tensor = self.attn.to_q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values, each ``[B, L, N*D]``."""
        return self.attn.to_k(normed), self.attn.to_v(normed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: SingleModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """One projection of what attention and the feed-forward give, gate and residual."""
        beside = functional.gelu(self.proj_mlp(normed), approximate="tanh")
        update = self.proj_out(torch.cat([attended.flatten(2), beside], dim=-1))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: SingleModulation, rows: StreamLayout
    ) -> Tensor:
        """Nothing: it ran beside attention."""
        del modulation, rows
        return hidden_states


def per_head(norm: Any) -> QKNorm:
    """RMS norm of each head alone."""
    return QKNorm(weight=norm.weight, eps=norm.eps, kind="rms", scope="head")


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, rows: StreamLayout) -> Tensor:
    """LayerNorm in fp32, shift and scale per frame, ``[B, L, D]`` in the dtype of ``x``."""
    normed = functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)
    return modulate(normed, shift, scale, rows).type_as(x)
