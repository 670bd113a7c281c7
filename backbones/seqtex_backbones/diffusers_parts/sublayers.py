"""Attention and feed-forward as most diffusion transformers have them: modulated norm, gate, sum.

Source:
    DiT (arXiv 2212.09748), section 3.2, "adaLN".
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from seqtex_core.adapter import TimeEmbedding
from seqtex_core.frames import StreamLayout
from seqtex_core.kernels.activation import linear_gelu
from seqtex_core.modulation import gated_residual, modulated_norm

from .attention import ProjectedRows


class Modulation(NamedTuple):
    """What a sublayer adds to its norm and multiplies it and its output with.

    Each is ``[B, F, D]``, a row per frame, in fp32; the factor is 1 plus the model's scale.
    """

    shift: Tensor
    factor: Tensor
    gate: Tensor

    @classmethod
    def of(cls, shift: Tensor, scale: Tensor, gate: Tensor) -> Self:
        """From the tables that models predict, in any dtype."""
        return cls(wide(shift), 1 + wide(scale), wide(gate))

    def with_norm(self, norm: nn.LayerNorm) -> Self:
        """What does to a norm without weights what this one does to ``norm``."""
        return type(self)(*fold_norm(norm, self.shift, self.factor), self.gate)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockModulation:
    """The modulation of the sublayers of a block."""

    attention: Modulation
    feed_forward: Modulation

    @classmethod
    def of_tables(cls, tables: tuple[Tensor, ...]) -> Self:
        """From shift, scale and gate of attention, then of the feed-forward."""
        return cls(attention=Modulation.of(*tables[:3]), feed_forward=Modulation.of(*tables[3:]))


class AdaptiveSublayers(ProjectedRows):
    """Attention and a GELU network, each behind a modulated LayerNorm and before a gate.

    Attributes:
        eps: of the norms, which have no weights.
    """

    eps: float

    @property
    @abstractmethod
    def network(self) -> Any:
        """The feed-forward sublayer, a diffusers ``FeedForward`` with GELU."""

    @abstractmethod
    def modulation(self, time: TimeEmbedding) -> BlockModulation:
        """Of both sublayers, a row per frame."""

    def normed(self, hidden_states: Tensor, modulation: Modulation, rows: StreamLayout) -> Tensor:
        """The norm in fp32, modulated, ``[B, L, D]`` in the dtype of the stream."""
        return modulated_norm(
            hidden_states, modulation.shift, modulation.factor, rows, eps=self.eps
        )

    def pre_attention(
        self, hidden_states: Tensor, modulation: BlockModulation, rows: StreamLayout
    ) -> Tensor:
        """Input of self-attention, ``[B, L, D]``."""
        return self.normed(hidden_states, modulation.attention, rows)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: BlockModulation,
        rows: StreamLayout,
    ) -> Tensor:
        """Output projection, gate and residual."""
        del normed
        update = self.attention_output(attended)
        return gated_residual(hidden_states, update, modulation.attention.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: BlockModulation, rows: StreamLayout
    ) -> Tensor:
        """GELU network, modulated and gated."""
        normed = self.normed(hidden_states, modulation.feed_forward, rows)
        update = gelu_network(self.network, normed)
        return gated_residual(hidden_states, update, modulation.feed_forward.gate, rows)


def gelu_network(network: Any, rows: Tensor) -> Tensor:
    """What a diffusers ``FeedForward`` gives, its first layer and GELU in one where that can be.

    Args:
        network: with GELU; its dropout, which no release has, is left out.
        rows: ``[B, L, D]``.
    """
    gelu, out = network.net[0], network.net[2]
    update: Tensor = out(linear_gelu(rows, gelu.proj, approximate=gelu.approximate))
    return update


def fold_norm(norm: nn.LayerNorm, shift: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and factor with the weights of the norm before them.

    ``(x w + b) f + s = x (w f) + (b f + s)``: rows of ``D`` numbers per frame, none per token.

    Args:
        norm: with weights.
        shift: after it, per frame, ``[B, F, D]``, fp32.
        factor: likewise.
    """
    weight, bias = wide(norm.weight), wide(norm.bias)
    return shift + bias * factor, weight * factor


def wide(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 if it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
