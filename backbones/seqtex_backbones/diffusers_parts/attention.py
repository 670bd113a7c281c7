"""Rows that pass through diffusers' ``Attention``: those of video, those of text, a context.

The layers are looked up when they are used, because adapters take their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from seqtex_core.adapter import KeyValue, RowSublayers, TextContext
from seqtex_core.attention import Attend
from seqtex_core.joint_projection import project
from seqtex_core.query_key import QKNorm, qk_prep

NormScope = Literal["inner", "head"]

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)
"""Linear layers of the blocks of most models: self-attention and the feed-forward network."""

JOINT_SELF_ATTENTION = (("attn1.to_q", "attn1.to_k", "attn1.to_v"),)
JOINT_ATTENTION = (*JOINT_SELF_ATTENTION, ("attn2.to_k", "attn2.to_v"))
"""Projections of the same rows, as ``BackboneBlock.joint_projections``."""


class ProjectedRows(RowSublayers):
    """Rows with the layers that diffusers names after themselves: ``to_q``, ``to_k`` and so on.

    Attributes:
        norm_scope: whether queries and keys are normalised over all heads or each head alone.
    """

    norm_scope: ClassVar[NormScope] = "head"
    attn1: Any

    @property
    def attention(self) -> Any:
        """The block's self-attention, a diffusers ``Attention``: ``attn1`` in most models."""
        return self.attn1

    @property
    def q_norm(self) -> QKNorm | None:
        """Norm of the queries."""
        return qk_norm(self.attention.norm_q, self.norm_scope)

    @property
    def k_norm(self) -> QKNorm | None:
        """Norm of the keys."""
        return qk_norm(self.attention.norm_k, self.norm_scope)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries, ``[B, L, N*D]``."""
        projected: Tensor = self.attention.to_q(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values, each ``[B, L, N*D]``."""
        key, value = project(normed, (self.attention.to_k, self.attention.to_v))
        return key, value

    def query_key_value(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        layers = self.attention
        query, key, value = project(normed, (layers.to_q, layers.to_k, layers.to_v))
        return query, key, value

    def attention_output(self, attended: Tensor) -> Tensor:
        """The output projection ``[B, L, D]`` of attended rows ``[B, L, N, D]``."""
        projected: Tensor = self.attention.to_out[0](attended.flatten(2))
        return projected


class AddedRows(ProjectedRows):
    """Rows with the layers that diffusers calls added: text with weights of its own."""

    @property
    def q_norm(self) -> QKNorm | None:
        """Norm of the queries."""
        return qk_norm(self.attention.norm_added_q, self.norm_scope)

    @property
    def k_norm(self) -> QKNorm | None:
        """Norm of the keys."""
        return qk_norm(self.attention.norm_added_k, self.norm_scope)

    def query(self, normed: Tensor) -> Tensor:
        """Projected queries, ``[B, L, N*D]``."""
        projected: Tensor = self.attention.add_q_proj(normed)
        return projected

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Projected keys and values, each ``[B, L, N*D]``."""
        key, value = project(normed, (self.attention.add_k_proj, self.attention.add_v_proj))
        return key, value

    def query_key_value(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.query(normed), *self.key_value(normed)

    def attention_output(self, attended: Tensor) -> Tensor:
        """The output projection ``[B, L, D]`` of attended rows ``[B, L, N, D]``."""
        projected: Tensor = self.attention.to_add_out(attended.flatten(2))
        return projected


class TextAttention:
    """Cross-attention to the text by ``attn2``; mixed into a ``SplitCrossBlock`` before it.

    Attributes:
        norm_scope: see :class:`ProjectedRows`; of both attentions.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {"cross_attn": ("attn2",)}
    joint_projections: ClassVar[tuple[tuple[str, ...], ...]] = JOINT_ATTENTION
    norm_scope: ClassVar[NormScope]
    attn2: Any
    num_heads: int

    def cross_key_values(self, context: TextContext) -> tuple[KeyValue, ...]:
        """Keys and values of the text; what its mask hides is hidden."""
        key, value = project(context.text, (self.attn2.to_k, self.attn2.to_v))
        norm, mask = qk_norm(self.attn2.norm_k, self.norm_scope), context.key_mask
        return (KeyValue.of(key, value, norm, num_heads=self.num_heads, mask=mask),)

    def cross_update(
        self, normed: Tensor, key_values: tuple[KeyValue, ...], attend: Attend
    ) -> Tensor:
        """Attention to each of several contexts apart, summed and projected."""
        norm = qk_norm(self.attn2.norm_q, self.norm_scope)
        query = qk_prep(self.attn2.to_q(normed), norm, num_heads=self.num_heads)
        attended, *more = (
            attend(query, pair.key, pair.value, mask=pair.mask) for pair in key_values
        )
        for other in more:
            attended = attended + other
        projected: Tensor = self.attn2.to_out[0](attended.flatten(2))
        return projected


def qk_norm(norm: Any, scope: NormScope) -> QKNorm | None:
    """The norm of queries or keys that a module computes, ``nn.LayerNorm`` or an RMS norm.

    Args:
        norm: has ``weight``, ``eps`` and perhaps ``bias``; ``None``, as in models without one,
            gives ``None``.
        scope: what it is computed over.
    """
    if norm is None:
        return None
    kind: Literal["rms", "layer"] = "layer" if isinstance(norm, nn.LayerNorm) else "rms"
    bias = getattr(norm, "bias", None)
    return QKNorm(weight=norm.weight, bias=bias, eps=norm.eps, kind=kind, scope=scope)
