"""The definition of attention: three lines in fp32, all scores in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_attention
from .attend import AttendBase, AttentionInputs


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """``softmax(q k^T scale + mask) v`` in fp32 (fp64 for fp64 inputs), rounded once at the end.

    Args:
        q: queries, ``[B, Lq, N, D]``.
        k: keys, ``[B, Lk, N, D]``.
        v: values, ``[B, Lk, N, D]``.
        mask: boolean (True = may attend) or additive, broadcastable to ``[B, N, Lq, Lk]``.
            A query that may attend to nothing gets zeros.
        scale: factor on the logits; ``1 / sqrt(D)`` by default.

    Raises:
        UsageError: tensors that do not fit together.
    """
    check_attention(q, k, v, mask)
    wide = torch.promote_types(q.dtype, torch.float32)
    factor = q.shape[3] ** -0.5 if scale is None else scale
    logits = torch.einsum("bqnd,bknd->bnqk", q.to(wide), k.to(wide)) * factor
    if mask is not None:
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, -torch.inf)
        else:
            logits = logits + mask
        blind = (logits == -torch.inf).all(dim=-1, keepdim=True)
        weights = logits.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)
    else:
        weights = logits.softmax(dim=-1)
    return torch.einsum("bnqk,bknd->bqnd", weights, v.to(wide)).to(q.dtype)


class ReferenceAttend(AttendBase):
    """:func:`attention_reference` as an implementation; runs everywhere."""

    name = "reference"

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """Nothing is refused."""
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Plain attention."""
        return attention_reference(q, k, v, mask=mask, scale=scale)


REFERENCE = ReferenceAttend()
