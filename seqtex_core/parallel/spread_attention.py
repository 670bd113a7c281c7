"""Attention over rows that lie in several processes, with torch's own collectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.nn import functional

from ..attention import Attend
from ..errors import UsageError
from ..frames import StreamLayout
from ..stream_attention import Attended, Keys, SpreadAttend
from ..text_rows import TextRows
from .row_shares import RowShares

Spread = Literal["gather", "ulysses"]

_all_gather: Callable[..., object] = getattr(  # renamed in torch 2.13
    distributed, "all_gather_single", None
) or getattr(distributed, "all_gather_into_tensor")  # noqa: B009


class GatheredKeys(SpreadAttend):
    """Every process collects the keys and values of all rows, for its own queries.

    Works with any number of heads. Received per process: ``2 (P - 1) / P`` times the keys.

    Args:
        local: attention implementation.
        shares: the rows of every process.
        group: the processes.
    """

    def __init__(self, local: Attend, shares: RowShares, group: ProcessGroup) -> None:
        super().__init__(local)
        self.shares, self.group = shares, group

    def streams(
        self,
        rows: StreamLayout,
        query: Tensor,
        keys: Sequence[Keys],
        *,
        text: TextRows | None,
        text_asks: bool,
    ) -> Attended:
        """See :func:`~seqtex_core.stream_attention.attend_streams`."""
        stacked = torch.stack([_joined([k.key for k in keys]), _joined([k.value for k in keys])])
        lengths = _key_lengths(self.shares, rows)
        key, value = gather_rows(stacked, lengths, self.group, dim=2).unbind(0)
        if text is None:
            return Attended(self.local(query, key, value))
        text_key, text_value = text.key_value()
        key, value = _joined([text_key, key]), _joined([text_value, value])
        asking = _joined([text.query(), query]) if text_asks else query
        out = self.local(asking, key, value, mask=text.key_mask(key.shape[1]))
        if not text_asks:
            return Attended(out)
        of_text, of_stream = out.split([text.rows.num_tokens, query.shape[1]], dim=1)
        return Attended(of_stream, of_text)


class HeadExchange(SpreadAttend):
    """Every process attends with all rows of some heads: two all-to-all exchanges (Ulysses).

    Sent per process: ``(P - 1) / P^2`` times queries, keys, values and output of all rows; the
    number of heads must be a multiple of the number of processes.

    Args:
        local: attention implementation.
        shares: the rows of every process.
        group: the processes.

    Source:
        DeepSpeed-Ulysses (arXiv 2309.14509).
    """

    def __init__(self, local: Attend, shares: RowShares, group: ProcessGroup) -> None:
        super().__init__(local)
        self.shares, self.group, self.count = shares, group, group.size()

    def streams(
        self,
        rows: StreamLayout,
        query: Tensor,
        keys: Sequence[Keys],
        *,
        text: TextRows | None,
        text_asks: bool,
    ) -> Attended:
        """See :func:`~seqtex_core.stream_attention.attend_streams`."""
        heads = query.shape[2]
        if heads % self.count:
            raise UsageError(
                "sequence 'ulysses'",
                expected=f"a number of processes that divides {heads} heads",
                got=str(self.count),
                remedy="Use sequence='gather'.",
            )
        asked = _key_lengths(self.shares, rows)
        own = self.shares.lengths[rows.groups[0].stream]
        q = self._all_rows(query, own)
        both = [torch.cat([k.key, k.value], dim=-1) for k in keys]
        k, v = self._all_rows(_joined(both), asked).chunk(2, dim=-1)
        if text is None:
            return Attended(self._own_rows(self.local(q, k, v), own))
        text_key, text_value = text.key_value()
        k, v = _joined([self._own_heads(text_key), k]), _joined([self._own_heads(text_value), v])
        asking = _joined([self._own_heads(text.query()), q]) if text_asks else q
        out = self.local(asking, k, v, mask=text.key_mask(k.shape[1]))
        if not text_asks:
            return Attended(self._own_rows(out, own))
        of_text, of_stream = out.split([text.rows.num_tokens, q.shape[1]], dim=1)
        part = heads // self.count
        every = gather_rows(of_text, (part,) * self.count, self.group, dim=2)
        return Attended(self._own_rows(of_stream, own), every)

    def _own_heads(self, x: Tensor) -> Tensor:
        part = x.shape[2] // self.count
        return x.narrow(2, part * self.shares.rank, part)

    def _all_rows(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """``[B, l, N, D]`` of own rows to ``[B, L, N / P, D]`` of own heads."""
        rows = x.unflatten(2, (self.count, -1)).permute(2, 1, 0, 3, 4).flatten(0, 1).contiguous()
        sent = [x.shape[1]] * self.count
        return self._exchange(rows, received=[*lengths], sent=sent).transpose(0, 1)

    def _own_rows(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """The inverse: ``[B, L, N / P, D]`` to ``[B, l, N, D]``."""
        rows, length = x.transpose(0, 1).contiguous(), lengths[self.shares.rank]
        received = self._exchange(rows, received=[length] * self.count, sent=[*lengths])
        parts: Tensor = received.unflatten(0, (self.count, length))
        return parts.permute(2, 1, 0, 3, 4).flatten(2, 3)

    def _exchange(self, rows: Tensor, *, received: list[int], sent: list[int]) -> Tensor:
        out = rows.new_empty(sum(received), *rows.shape[1:])
        distributed.all_to_all_single(out, rows, received, sent, group=self.group)
        return out


SPREADS: Mapping[Spread, Callable[[Attend, RowShares, ProcessGroup], SpreadAttend]] = {
    "gather": GatheredKeys,
    "ulysses": HeadExchange,
}


def gather_rows(x: Tensor, lengths: Sequence[int], group: ProcessGroup, *, dim: int) -> Tensor:
    """The parts of all processes one after the other along ``dim``.

    Args:
        x: this process's part.
        lengths: size of every process's part along ``dim``.
        group: the processes.
        dim: where they are joined.
    """
    longest = max(lengths)
    missing = longest - x.shape[dim]
    if missing:
        x = functional.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, missing])
    every = x.new_empty(len(lengths), *x.shape)
    _all_gather(every, x[None].contiguous(), group=group)
    parts = zip(every.unbind(0), lengths, strict=True)
    return torch.cat([part.narrow(dim, 0, length) for part, length in parts], dim)


def _key_lengths(shares: RowShares, rows: StreamLayout) -> tuple[int, ...]:
    """Keys that every process has for the stream that asks: uv reads mv and uv."""
    mv = shares.lengths["mv"]
    if rows.groups[0].stream == "mv":
        return mv
    return tuple(a + b for a, b in zip(mv, shares.lengths["uv"], strict=True))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
