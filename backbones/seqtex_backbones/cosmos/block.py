"""One Cosmos block: three modulated sublayers, each with a low-rank modulation of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneBlock, KeyValue, TextContext, TimeEmbedding
from seqtex_core.attention import Attend
from seqtex_core.frames import StreamLayout
from seqtex_core.modulation import gated_residual, modulate
from seqtex_core.qk_prep import QKNorm, qk_prep

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)


class Modulation(NamedTuple):
    """Shift, scale and gate of one sublayer, each ``[B, F, D]``, fp32."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class CosmosModulation(NamedTuple):
    """Of self-attention, cross-attention and feed-forward."""

    attention: Modulation
    cross: Modulation
    feed_forward: Modulation


class CosmosBlock(BackboneBlock):
    """Self-attention, cross-attention to text, feed-forward; all three modulated and gated.

    Args:
        block: a diffusers ``CosmosTransformerBlock``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        parts: Any = block
        self.norm1 = parts.norm1
        self.attn1 = parts.attn1
        self.norm2 = parts.norm2
        self.attn2 = parts.attn2
        self.norm3 = parts.norm3
        self.ff = parts.ff
        self.num_heads = int(parts.attn1.heads)

    @property
    def q_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return per_head(self.attn1.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm of each head."""
        return per_head(self.attn1.norm_k)

    def modulation(self, time: TimeEmbedding) -> CosmosModulation:
        """What every sublayer makes of the level, plus what all sublayers of all blocks share."""
        triples = [
            Modulation(*low_rank(norm, time, parts=3))
            for norm in (self.norm1, self.norm2, self.norm3)
        ]
        return CosmosModulation(*triples)

    def pre_attention(
        self, hidden_states: Tensor, modulation: CosmosModulation, rows: StreamLayout
    ) -> Tensor:
        """LayerNorm in fp32, then shift and scale, ``[B, L, D]``."""
        return _modulated(hidden_states, self.norm1, modulation.attention, rows)

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
        modulation: CosmosModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate and residual."""
        del normed
        update = self.attn1.to_out[0](attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.attention.gate, rows)

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text."""
        attn, text = self.attn2, context.text
        key, value, norm = attn.to_k(text), attn.to_v(text), per_head(attn.norm_k)
        return (KeyValue.of(key, value, norm, num_heads=self.num_heads, mask=context.key_mask),)

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: CosmosModulation,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """Modulated and gated like the others."""
        normed = _modulated(hidden_states, self.norm2, modulation.cross, rows)
        norm, text = per_head(self.attn2.norm_q), key_values[0]
        query = qk_prep(self.attn2.to_q(normed), norm, num_heads=self.num_heads)
        attended = attend(query, text.key, text.value, mask=text.mask)
        update = self.attn2.to_out[0](attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.cross.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: CosmosModulation, rows: StreamLayout
    ) -> Tensor:
        """GELU network, modulated and gated."""
        update = self.ff(_modulated(hidden_states, self.norm3, modulation.feed_forward, rows))
        return gated_residual(hidden_states, update, modulation.feed_forward.gate, rows)


def low_rank(norm: Any, time: TimeEmbedding, *, parts: int) -> tuple[Tensor, ...]:
    """Shift, scale (and gate) of a modulated norm, fp32, each ``[B, F, D]``.

    Args:
        norm: with a low-rank pair of layers, ``linear_1`` and ``linear_2``.
        time: ``embedding`` passes through them, ``projected`` is added.
        parts: how many.
    """
    own: Tensor = norm.linear_2(norm.linear_1(functional.silu(time.embedding))).float()
    common = time.projected[..., : own.shape[-1]].float()
    return (own + common).chunk(parts, dim=-1)


def plain_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm without weights, fp32."""
    return functional.layer_norm(x.float(), x.shape[-1:], eps=norm.eps)


def per_head(norm: Any) -> QKNorm:
    """RMS norm of each head alone."""
    return QKNorm(weight=norm.weight, eps=norm.eps, kind="rms", scope="head")


def _modulated(x: Tensor, norm: Any, modulation: Modulation, rows: StreamLayout) -> Tensor:
    normed = plain_norm(x, norm.norm)
    return modulate(normed, modulation.shift, modulation.scale, rows).type_as(x)
