"""The rows that attend, and the rows that they attend, put together.

Where samples are the batch, that is a concatenation. Where they follow each other in a batch of 1
(``PackedLayout``), rows are put together sample by sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import Attend
from .attention.attend import AttentionInputs
from .attention.packed import PerSample, attend_packed
from .frames import StreamLayout
from .text_rows import TextRows


class Keys(NamedTuple):
    """Keys and values of one stream.

    Attributes:
        rows: whose they are.
        key: ``[B, L, N, D]``.
        value: likewise.
    """

    rows: StreamLayout
    key: Tensor
    value: Tensor


class Attended(NamedTuple):
    """What attention gives.

    Attributes:
        stream: rows of the stream, ``[B, L, N, D]``.
        text: text rows, ``[B, S, N, D]``, if they asked.
    """

    stream: Tensor
    text: Tensor | None = None


class SpreadAttend(ABC):
    """Attention where this process has some of every stream's rows, and others have the rest.

    Args:
        local: implementation for rows that are all here.
    """

    def __init__(self, local: Attend) -> None:
        self.local = local

    @property
    def name(self) -> str:
        """Of the implementation."""
        return self.local.name

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """That of the implementation."""
        return self.local.reason_unsupported(inputs)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention over keys that are all here."""
        return self.local(q, k, v, mask=mask, scale=scale)

    @abstractmethod
    def streams(
        self,
        rows: StreamLayout,
        query: Tensor,
        keys: Sequence[Keys],
        *,
        text: TextRows | None,
        text_asks: bool,
    ) -> Attended:
        """:func:`attend_streams` over the rows of all processes, for the rows that are here."""


def attend_streams(
    attend: Attend,
    rows: StreamLayout,
    query: Tensor,
    keys: Sequence[Keys],
    *,
    text: TextRows | None,
    text_asks: bool = False,
) -> Attended:
    """Attention of a stream's rows over the keys of some streams, text first.

    An implementation with rows in other processes does this in its own way.

    Args:
        attend: implementation.
        rows: the stream that asks.
        query: its queries, ``[B, L, N, D]``.
        keys: of the streams that are read, in order.
        text: text rows that are read, or ``None``.
        text_asks: they ask together with the stream.
    """
    if isinstance(attend, SpreadAttend):
        return attend.streams(rows, query, keys, text=text, text_asks=text_asks)
    queries, asked = [(rows, query)], [(k.rows, k.key) for k in keys]
    values = [(k.rows, k.value) for k in keys]
    if text is not None:
        key, value = text.key_value()
        asked, values = [(text.rows, key), *asked], [(text.rows, value), *values]
        if text_asks:
            queries = [(text.rows, text.query()), *queries]
    q, k, v = join_rows(queries), join_rows(asked), join_rows(values)
    if not rows.sample_lengths:
        out = attend(q, k, v, mask=None if text is None else text.key_mask(k.shape[1]))
    else:
        lengths = _lengths([r for r, _ in asked])
        out = attend_packed(
            attend,
            q,
            k,
            v,
            query_lengths=_lengths([r for r, _ in queries]),
            key_lengths=lengths,
            masks=None if text is None else text.key_masks(lengths),
        )
    if len(queries) == 1:
        return Attended(out)
    of_text, of_stream = split_rows(out, [r for r, _ in queries])
    return Attended(of_stream, of_text)


def per_sample(attend: Attend, rows: StreamLayout) -> Attend:
    """The implementation for the stream's queries over keys that are a batch."""
    if isinstance(attend, SpreadAttend):
        attend = attend.local
    return PerSample(attend, rows.sample_lengths) if rows.sample_lengths else attend


def join_rows(parts: Sequence[tuple[StreamLayout, Tensor]]) -> Tensor:
    """Rows of several kinds one after the other, ``[B, sum L, ...]``; packed sample by sample.

    Args:
        parts: what the rows are, and ``[B, L, ...]``. If some are packed, the others are a batch of
            as many samples, and the result is packed.
    """
    if len(parts) == 1:
        return parts[0][1]
    if not _packed([rows for rows, _ in parts]):
        return torch.cat([part for _, part in parts], dim=1)
    samples = [_samples(rows, part) for rows, part in parts]
    return torch.cat(list(chain.from_iterable(zip(*samples, strict=True))), dim=1)


def split_rows(joined: Tensor, kinds: Sequence[StreamLayout]) -> list[Tensor]:
    """The inverse of :func:`join_rows`."""
    if not _packed(kinds):
        return list(joined.split([rows.num_tokens for rows in kinds], dim=1))
    count = next(len(rows.sample_lengths) for rows in kinds if rows.sample_lengths)
    lengths = [rows.sample_lengths or (rows.num_tokens,) * count for rows in kinds]
    pieces = joined.split(list(chain.from_iterable(zip(*lengths, strict=True))), dim=1)
    return [
        torch.cat(pieces[at :: len(kinds)], dim=1 if rows.sample_lengths else 0)
        for at, rows in enumerate(kinds)
    ]


def _packed(kinds: Sequence[StreamLayout]) -> bool:
    return any(rows.sample_lengths for rows in kinds)


def _samples(rows: StreamLayout, part: Tensor) -> Sequence[Tensor]:
    """Rows of each sample, ``[1, L, ...]``."""
    pieces: Sequence[Tensor] = (
        part.split(list(rows.sample_lengths), dim=1) if rows.sample_lengths else part.split(1)
    )
    return pieces


def _lengths(kinds: Sequence[StreamLayout]) -> list[int]:
    """Rows of all kinds in each sample."""
    count = next(len(rows.sample_lengths) for rows in kinds if rows.sample_lengths)
    every = [rows.sample_lengths or (rows.num_tokens,) * count for rows in kinds]
    return [sum(lengths) for lengths in zip(*every, strict=True)]
