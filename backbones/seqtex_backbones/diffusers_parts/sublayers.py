"""What lies between norm and sum in the sublayers of most blocks, and the tables around them.

Source:
    DiT (arXiv 2212.09748), section 3.2, "adaLN".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqtex_core.kernels.activation import linear_gelu
from seqtex_core.modulation import NormKind, RowNorm
from seqtex_core.split_block import SplitRows, Sublayer, Sublayers

from .attention import ProjectedRows


class GeluSublayers(ProjectedRows, SplitRows):
    """Attention, and a feed-forward network with GELU."""

    ff: Any

    @property
    def network(self) -> Any:
        """The feed-forward sublayer, a diffusers ``FeedForward`` with GELU: ``ff`` in most models.

        Its dropout, which no release has, is left out.
        """
        return self.ff

    def attention_update(self, attended: Tensor) -> Tensor:
        """Output projection."""
        return self.attention_output(attended)

    def feed_forward_update(self, normed: Tensor) -> Tensor:
        """The network, its first layer and GELU in one where that can be."""
        gelu, out = self.network.net[0], self.network.net[2]
        update: Tensor = out(linear_gelu(normed, gelu.proj, approximate=gelu.approximate))
        return update


def adaptive(
    shift: Tensor, scale: Tensor, gate: Tensor, *, eps: float, kind: NormKind = "layer"
) -> Sublayer:
    """A sublayer with a norm of no weights, from the tables that models predict in any dtype."""
    return Sublayer(RowNorm(1 + wide(scale), wide(shift), eps, kind), wide(gate))


def two_adaptive(tables: tuple[Tensor, ...], *, eps: float, kind: NormKind = "layer") -> Sublayers:
    """Shift, scale and gate of attention, then those of the feed-forward."""
    return Sublayers(
        attention=adaptive(*tables[:3], eps=eps, kind=kind),
        feed_forward=adaptive(*tables[3:], eps=eps, kind=kind),
    )


def with_weights(norm: nn.LayerNorm, modulated: RowNorm) -> RowNorm:
    """A modulated norm with weights as one without: ``(x w + b) f + s = x (w f) + (b f + s)``.

    Args:
        norm: with weights.
        modulated: factor and shift behind it, per frame.
    """
    factor, shift, eps, _ = modulated
    return RowNorm(wide(norm.weight) * factor, shift + wide(norm.bias) * factor, eps)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 if it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
