"""Which rows of every stream a process has, and its part of all that belongs to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..branch_data import BlockCache, BranchInputs, Hidden
from ..errors import UsageError
from ..frames import Stream, StreamLayout
from ..rope import Rope


@dataclass(frozen=True, kw_only=True)
class RowShares:
    """Rows of every stream per process, one share after the other.

    Args:
        lengths: by stream, the rows of each process.
        rank: this process.
    """

    lengths: Mapping[Stream, tuple[int, ...]]
    rank: int

    @classmethod
    def of(cls, inputs: Mapping[Stream, BranchInputs], count: int, rank: int) -> RowShares:
        """Shares of the streams over ``count`` processes that differ by one row at most.

        Raises:
            UsageError: fewer rows than processes.
        """
        lengths = {s: even_shares(branch.rows.num_tokens, count) for s, branch in inputs.items()}
        for stream, shares in lengths.items():
            if not shares[-1]:
                raise UsageError(
                    f"rows of the {stream} stream", expected=f"at least {count}", got=f"{shares}"
                )
        return cls(lengths=lengths, rank=rank)

    def cut(self, stream: Stream) -> slice:
        """The rows of this process."""
        start = sum(self.lengths[stream][: self.rank])
        return slice(start, start + self.lengths[stream][self.rank])

    def hidden(self, hidden: Hidden) -> Hidden:
        """This process's rows of the streams that are shared out; every process has the text."""
        uv = hidden.uv
        return hidden._replace(
            mv=hidden.mv[:, self.cut("mv")].contiguous(),
            uv=None if uv is None or "uv" not in self.lengths else uv[:, self.cut("uv")],
        )

    def inputs(self, inputs: Mapping[Stream, BranchInputs]) -> dict[Stream, BranchInputs]:
        """What the branches read, for the rows of this process."""
        own = {stream: self._branch(inputs[stream], self.cut(stream)) for stream in self.lengths}
        if "uv" in own and inputs["uv"].key_rope is not None:
            tables = [own[s].rope for s in ("mv", "uv")]
            joined = Rope.cat([table for table in tables if table is not None])
            own["uv"] = replace(own["uv"], key_rope=joined)
        return own

    def block(self, cache: BlockCache) -> BlockCache:
        """What a block keeps over the steps, for the rows of this process."""
        parts = {s: cache.geometry[s][:, self.cut(s)] for s in self.lengths if s in cache.geometry}
        joined = None
        if cache.key_geometry is not None and len(parts) == 2:
            joined = torch.cat([parts["mv"], parts["uv"]], dim=1)
        cross = {stream: cache.cross[stream] for stream in self.lengths}
        return BlockCache(geometry=parts, cross=cross, key_geometry=joined)

    @staticmethod
    def _branch(branch: BranchInputs, cut: slice) -> BranchInputs:
        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, cut]

        return replace(
            branch,
            rows=_between(branch.rows, cut.start, cut.stop),
            rope=None if branch.rope is None else branch.rope.rows(cut),
            position=None if branch.position is None else branch.position[cut],
            geometry_tokens=rows(branch.geometry_tokens),
            geometry_input=rows(branch.geometry_input),
        )


def even_shares(total: int, count: int) -> tuple[int, ...]:
    """``count`` whole numbers that add up to ``total`` and differ by one at most, larger first."""
    share, rest = divmod(total, count)
    return tuple(share + (index < rest) for index in range(count))


def _between(rows: StreamLayout, start: int, stop: int) -> StreamLayout:
    return StreamLayout(
        groups=rows.groups,
        frame_lengths=_overlaps(rows.frame_lengths, start, stop),
        group_lengths=_overlaps(rows.group_lengths, start, stop),
    )


def _overlaps(lengths: Sequence[int], start: int, stop: int) -> tuple[int, ...]:
    """How much of each of some intervals, one after the other, lies between two rows."""
    parts, at = [], 0
    for length in lengths:
        parts.append(max(0, min(stop, at + length) - max(start, at)))
        at += length
    return tuple(parts)
