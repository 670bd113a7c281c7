"""What lies between norm and sum in the sublayers of most blocks, and the tables around them.

Source:
    DiT (arXiv 2212.09748), section 3.2, "adaLN".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqtex_core.adapter import BackboneBlock, TimeEmbedding
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


class TableSublayers(GeluSublayers):
    """Such sublayers whose tables are learned, one set a block, and added to what all blocks share.

    Attributes:
        scale_shift_table: shift, scale and gate of attention, then of the feed-forward,
            ``[6, D]`` or ``[1, 6, D]``.
    """

    scale_shift_table: nn.Parameter

    @abstractmethod
    def around(self, tables: tuple[Tensor, ...]) -> Sublayers:
        """Norms and gates from the six tables, each ``[B, F, D]``, the scales as factors."""

    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """The block's tables plus the time projection (see :func:`with_factors`), fp32."""
        return self.around((wide(self.scale_shift_table) + time.projected).unbind(2))

    @classmethod
    def modulations(
        cls, blocks: Sequence[BackboneBlock], time: TimeEmbedding
    ) -> list[Sublayers] | None:
        """All blocks' tables plus the time projection in one sum."""
        known = [block for block in blocks if isinstance(block, TableSublayers)]
        tables: list[Tensor] = [block.scale_shift_table for block in known]
        if len(known) < len(blocks) or any(t.device != time.projected.device for t in tables):
            return None
        sums = wide(torch.stack([table.view(6, -1) for table in tables]))[:, None, None]
        rows = sums + time.projected
        return [block.around(own.unbind(2)) for block, own in zip(known, rows, strict=True)]


def with_factors(projected: Tensor) -> Tensor:
    """Shifts, scales and gates ``[..., 3 n, D]`` with the scales turned into factors, fp32.

    1 is added here, once per step, and not in every block.
    """
    ones = torch.zeros(projected.shape[-2], 1, device=projected.device)
    ones[1::3] = 1
    return projected + ones


def two_adaptive(
    tables: tuple[Tensor, ...],
    *,
    eps: float,
    kind: NormKind = "layer",
    cross: Sublayer | None = None,
) -> Sublayers:
    """Sublayers with norms of no weights.

    Args:
        tables: shift, factor and gate of attention, then of the feed-forward, fp32.
        eps: of the norms.
        kind: of the norms.
        cross: what surrounds cross-attention, if there is any.
    """
    shift, factor, gate, ff_shift, ff_factor, ff_gate = tables
    return Sublayers(
        attention=Sublayer(RowNorm(factor, shift, eps, kind), gate),
        feed_forward=Sublayer(RowNorm(ff_factor, ff_shift, eps, kind), ff_gate),
        cross=cross,
    )


def adaptive(projected: Tensor, *, count: int, eps: float) -> tuple[Sublayer, ...]:
    """Sublayers with LayerNorms of no weights.

    Args:
        projected: shift, scale and gate of one after the other, ``[B, F, 3 count D]``, any dtype.
        count: of sublayers.
        eps: of the norms.
    """
    tables = wide(projected).unflatten(-1, (count, 3, -1)).unbind(-3)
    return tuple(
        Sublayer(RowNorm(1 + scale, shift, eps), gate)
        for shift, scale, gate in (table.unbind(-2) for table in tables)
    )


def with_weights(norm: nn.LayerNorm, modulated: RowNorm) -> RowNorm:
    """A modulated norm with weights as one without: ``(x w + b) f + s = x (w f) + (b f + s)``.

    Args:
        norm: with weights.
        modulated: factor and shift behind it, per frame, fp32.
    """
    factor, shift, eps, _ = modulated
    return RowNorm(factor * norm.weight, torch.addcmul(shift, factor, norm.bias), eps)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or in fp64 if it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
