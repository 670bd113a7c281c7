"""One Wan block: self-attention, cross-attention and feed-forward of the rows of one stream.

Source:
    Wan (arXiv 2503.20314), section 4.2; diffusers' implementation for the order of roundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from seqtex_core.adapter import BackboneBlock, KeyValue, TextContext, TimeEmbedding
from seqtex_core.attention import Attend
from seqtex_core.frames import StreamLayout
from seqtex_core.kernels.activation import linear_gelu
from seqtex_core.modulation import affine_norm, gated_residual, modulated_norm
from seqtex_core.qk_prep import QKNorm, qk_prep

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)


class WanModulation(NamedTuple):
    """Shift, factor and gate of self-attention, then of the feed-forward; each ``[B, F, D]``.

    The factors are 1 plus what the weights say.
    """

    shift: Tensor
    factor: Tensor
    gate: Tensor
    ffn_shift: Tensor
    ffn_factor: Tensor
    ffn_gate: Tensor


FACTORS = slice(1, None, 3)
"""The factors among the six."""


class WanBlock(BackboneBlock):
    """Self-attention, cross-attention to text, feed-forward; modulated per frame.

    Args:
        block: a diffusers ``WanTransformerBlock``; its modules are taken over.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}
    cross_attends_row_by_row: ClassVar[bool] = True

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
    def q_norm(self) -> QKNorm:
        """RMS norm over all heads."""
        return _rms(self.attn1.norm_q)

    @property
    def k_norm(self) -> QKNorm:
        """RMS norm over all heads."""
        return _rms(self.attn1.norm_k)

    def modulation(self, time: TimeEmbedding) -> WanModulation:
        """The block's table plus the time projection, fp32."""
        rows = self.scale_shift_table.float().unsqueeze(0) + time.projected
        return WanModulation(*rows.unbind(2))

    def pre_attention(
        self, hidden_states: Tensor, modulation: WanModulation, rows: StreamLayout
    ) -> Tensor:
        """LayerNorm in fp32, then shift and scale, ``[B, L, D]``."""
        return self._norm(hidden_states, modulation.shift, modulation.factor, rows)

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
        modulation: WanModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate and residual."""
        del normed
        update = self.attn1.to_out[0](attended.flatten(2))
        return gated_residual(hidden_states, update, modulation.gate, rows)

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text and, for image-to-video models, of the image."""
        attn = self.attn2
        text = context.text
        key, value, norm = attn.to_k(text), attn.to_v(text), _rms(attn.norm_k)
        of_text = KeyValue.of(key, value, norm, num_heads=self.num_heads, mask=context.key_mask)
        if context.image is None:
            return (of_text,)
        key, value = attn.add_k_proj(context.image), attn.add_v_proj(context.image)
        norm = _rms(attn.norm_added_k)
        return of_text, KeyValue.of(key, value, norm, num_heads=self.num_heads)

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: WanModulation,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """Unmodulated and ungated; text and image are attended separately and summed."""
        del modulation, rows
        return hidden_states + self.cross_update(self.cross_norm(hidden_states), key_values, attend)

    def cross_norm(self, hidden_states: Tensor) -> Tensor:
        """LayerNorm with weights, of which each branch has its own."""
        weight, bias = self.norm2.weight, self.norm2.bias
        return affine_norm(hidden_states, weight, bias, eps=self.norm2.eps)

    def cross_update(
        self, normed: Tensor, key_values: tuple[KeyValue, ...], attend: Attend
    ) -> Tensor:
        """Attention to text and image, projected."""
        norm = _rms(self.attn2.norm_q)
        query = qk_prep(self.attn2.to_q(normed), num_heads=self.num_heads, norm=norm)
        attended = [attend(query, pair.key, pair.value, mask=pair.mask) for pair in key_values]
        update = attended[0] if len(attended) == 1 else attended[0] + attended[1]
        out: Tensor = self.attn2.to_out[0](update.flatten(2))
        return out

    def feed_forward(
        self, hidden_states: Tensor, modulation: WanModulation, rows: StreamLayout
    ) -> Tensor:
        """GELU network, modulated and gated."""
        shift, factor = modulation.ffn_shift, modulation.ffn_factor
        gelu, _, out = self.ffn.net
        normed = self._norm(hidden_states, shift, factor, rows)
        update = out(linear_gelu(normed, gelu.proj, approximate=gelu.approximate))
        return gated_residual(hidden_states, update, modulation.ffn_gate, rows)

    def _norm(self, x: Tensor, shift: Tensor, factor: Tensor, rows: StreamLayout) -> Tensor:
        return modulated_norm(x, shift, factor, rows, eps=self.eps)


def _rms(norm: nn.RMSNorm) -> QKNorm:
    eps = norm.eps
    assert eps is not None
    return QKNorm(weight=norm.weight, eps=eps, kind="rms", scope="inner")
