"""Attention of samples of different lengths that lie one after the other in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..checks import check_attention, check_shape
from ..errors import UsageError
from .attend import Attend, AttentionInputs
from .choose import AutoAttend


@runtime_checkable
class AttendsPacked(Protocol):
    """An implementation with a kernel of its own for packed samples."""

    def attend_packed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_lengths: Sequence[int],
        key_lengths: Sequence[int],
        scale: float | None = None,
    ) -> Tensor:
        """See :func:`attend_packed`; without masks."""
        ...


def attend_packed(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    masks: Sequence[Tensor | None] | None = None,
    scale: float | None = None,
) -> Tensor:
    """Every sample's queries over its own keys, ``[1, sum of query lengths, N, D]``.

    One call where the implementation has a kernel for it (FlashAttention, also PyTorch's own), else
    one per sample.

    Args:
        attend: the implementation.
        q: queries of all samples, ``[1, sum Lq, N, D]``.
        k: keys, ``[1, sum Lk, N, D]``.
        v: values, likewise.
        query_lengths: queries of each sample.
        key_lengths: keys of each sample.
        masks: per sample as :class:`Attend` takes it, or ``None``.
        scale: see :class:`Attend`.

    Raises:
        UsageError: no samples, lengths that do not add up, a sample with queries and no keys,
            tensors that do not fit together, or another number of masks.
    """
    _check_lengths(query_lengths, key_lengths)
    _check_rows(q, k, v, query_lengths, key_lengths)
    if masks is not None:
        _check_masks(masks, len(query_lengths))
    if isinstance(attend, AutoAttend) and not torch.compiler.is_compiling():
        masked = next((m for m in masks or () if m is not None), None)
        attend = attend.choose(AttentionInputs.of(q, k, v, masked, samples=len(query_lengths)))
    if masks is None and q.shape[1] and isinstance(attend, AttendsPacked):
        return attend.attend_packed(
            q, k, v, query_lengths=query_lengths, key_lengths=key_lengths, scale=scale
        )
    rows = [x.split(list(n), dim=1) for x, n in ((q, query_lengths), (k, key_lengths))]
    values = v.split(list(key_lengths), dim=1)
    hidden = masks or [None] * len(values)
    parts = [
        attend(query, key, value, mask=mask, scale=scale) if query.shape[1] else query
        for query, key, value, mask in zip(*rows, values, hidden, strict=True)
    ]
    return torch.cat(parts, dim=1)


class PerSample:
    """An implementation for queries that are packed and keys that are a batch: cross-attention.

    Args:
        attend: the implementation.
        query_lengths: queries of each sample.
    """

    def __init__(self, attend: Attend, query_lengths: Sequence[int]) -> None:
        self.attend = attend
        self.query_lengths = tuple(query_lengths)
        self.name = f"{attend.name}, packed"

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """That of the implementation."""
        return self.attend.reason_unsupported(inputs)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention of ``q [1, sum Lq, N, D]`` over ``k [B, Lk, N, D]``, sample by sample.

        Args:
            q: packed queries.
            k: keys, one entry of the batch per sample.
            v: values, likewise.
            mask: ``[B, 1, 1, Lk]``, or ``None``.
            scale: see :class:`Attend`.
        """
        return attend_packed(
            self.attend,
            q,
            k.flatten(0, 1)[None],
            v.flatten(0, 1)[None],
            query_lengths=self.query_lengths,
            key_lengths=[k.shape[1]] * k.shape[0],
            masks=None if mask is None else mask.split(1),
            scale=scale,
        )


def _check_lengths(query_lengths: Sequence[int], key_lengths: Sequence[int]) -> None:
    if not query_lengths or len(query_lengths) != len(key_lengths):
        raise UsageError(
            "packed samples",
            expected="as many query_lengths as key_lengths, one or more",
            got=f"{len(query_lengths)} and {len(key_lengths)}",
            remedy="Give one of each per sample.",
        )
    for index, (asked, known) in enumerate(zip(query_lengths, key_lengths, strict=True)):
        if asked < 0 or known < 0 or (asked and not known):
            raise UsageError(
                f"packed sample {index}",
                expected="lengths of 0 or more, and keys where there are queries",
                got=f"{asked} queries and {known} keys",
                remedy="A sample without keys can only be one without queries.",
            )


def _check_rows(
    q: Tensor, k: Tensor, v: Tensor, query_lengths: Sequence[int], key_lengths: Sequence[int]
) -> None:
    check_shape("q", q, (1, sum(query_lengths), None, None), "1 Lq N D")
    for name, x in (("k", k), ("v", v)):
        check_shape(name, x, (1, sum(key_lengths), *q.shape[2:]), "1 Lk N D")
    if k.shape[1]:
        check_attention(q, k, v)


def _check_masks(masks: Sequence[Tensor | None], count: int) -> None:
    if len(masks) != count:
        raise UsageError(
            "masks",
            expected=f"{count}, one per sample",
            got=str(len(masks)),
            remedy="Give None for a sample without a mask.",
        )
