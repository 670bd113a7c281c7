"""One CogVideoX block: joint attention and feed-forward, modulated per frame."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, RowSublayers, TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import gated_residual, modulate
from seqtex_core.qk_prep import QKNorm
from seqtex_core.text_rows import SharedTextRows

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)


class CogVideoXModulation(NamedTuple):
    """Shift, scale and gate of attention, then of the feed-forward; each ``[B, F, D]``, fp32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor
    ff_shift: Tensor
    ff_scale: Tensor
    ff_gate: Tensor


class CogVideoXBlock(BackboneBlock):
    """Joint attention and feed-forward; text and video share all weights but the modulation.

    Args:
        block: a diffusers ``CogVideoXBlock``; its modules are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.attn1 = parts.attn1
        self.norm2 = parts.norm2
        self.ff = parts.ff
        self.num_heads = int(parts.attn1.heads)

    @property
    def q_norm(self) -> QKNorm:
        """LayerNorm of each head."""
        return per_head(self.attn1.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """LayerNorm of each head."""
        return per_head(self.attn1.norm_k)

    def text_rows(self) -> RowSublayers:
        """The same sublayers with the text half of the modulation."""
        return SharedTextRows(self, lambda time: self.both_modulations(time)[1])

    def modulation(self, time: TimeEmbedding) -> CogVideoXModulation:
        """The video half of both modulations."""
        return self.both_modulations(time)[0]

    def both_modulations(
        self, time: TimeEmbedding
    ) -> tuple[CogVideoXModulation, CogVideoXModulation]:
        """Of video rows and of text rows."""
        first = self.norm1.linear(time.projected).float().chunk(6, dim=-1)
        second = self.norm2.linear(time.projected).float().chunk(6, dim=-1)
        return (
            CogVideoXModulation(*first[:3], *second[:3]),
            CogVideoXModulation(*first[3:], *second[3:]),
        )

    def pre_attention(
        self, hidden_states: Tensor, modulation: CogVideoXModulation, rows: StreamLayout
    ) -> Tensor:
        """LayerNorm, shift and scale, ``[B, L, D]``."""
        shift, scale = modulation.shift, modulation.scale
        return modulated_norm(hidden_states, self.norm1.norm, shift, scale, rows)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries, ``[B, L, N*D]``."""
        projected: Tensor = self.attn1.to_q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values, each ``[B, L, N*D]``."""
        return self.attn1.to_k(normed), self.attn1.to_v(normed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: CogVideoXModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate and residual."""
        del normed
        update = self.attn1.to_out[0](attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: CogVideoXModulation, rows: StreamLayout
    ) -> Tensor:
        """GELU network, modulated and gated."""
        shift, scale = modulation.ff_shift, modulation.ff_scale
        normed = modulated_norm(hidden_states, self.norm2.norm, shift, scale, rows)
        return gated_residual(hidden_states, self.ff(normed), modulation.ff_gate, rows)


def per_head(norm: nn.LayerNorm) -> QKNorm:
    """LayerNorm of each head alone."""
    return QKNorm(weight=norm.weight, bias=norm.bias, eps=norm.eps, kind="layer", scope="head")


def wide_norm(wide: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The norm in the dtype of ``wide``, whatever its weights are in."""
    weight, bias = norm.weight.to(wide.dtype), norm.bias.to(wide.dtype)
    return functional.layer_norm(wide, wide.shape[-1:], weight, bias, norm.eps)


def modulated_norm(
    x: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor, rows: StreamLayout
) -> Tensor:
    """Norm in fp32, shift and scale per frame, ``[B, L, D]`` in the dtype of ``x``."""
    return modulate(wide_norm(x.float(), norm), shift, scale, rows).type_as(x)
