"""Samples of which different tokens are present, as one long sequence.

Samples of a batch that keep different tokens cannot share a dimension. Their rows follow each
other in a batch of 1 instead, so that everything that works row by row (projections, norms,
feed-forward) runs once over all of them; only attention goes sample by sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import UsageError
from .frames import FrameGroup, Stream, StreamLayout, TokenLayout


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedLayout:
    """Which token row belongs to which frame of which sample, for both streams.

    Args:
        samples: one layout per sample, of the same groups; they may differ in ``keep``.

    Raises:
        UsageError: no samples, other groups in one of them, or a sample without a token in a
            stream.
    """

    samples: tuple[TokenLayout, ...]

    def __post_init__(self) -> None:
        if not self.samples or any(s.groups != self.samples[0].groups for s in self.samples):
            raise UsageError("packed samples", expected="at least one, of equal groups", got="none")
        for index, sample in enumerate(self.samples):
            empty = [stream for stream, rows in sample.streams.items() if rows.num_tokens == 0]
            if empty:
                raise UsageError(
                    f"sample {index}",
                    expected="at least one token in every stream",
                    got=f"none in {', '.join(empty)}",
                )

    @classmethod
    def of(cls, layout: TokenLayout, keep: Mapping[str, Sequence[Tensor]]) -> PackedLayout:
        """Samples of the groups of ``layout`` with the tokens ``keep[name][sample]``.

        Raises:
            UsageError: different numbers of samples, or indices that a layout refuses.
        """
        counts = {len(indices) for indices in keep.values()}
        if len(counts) != 1:
            raise UsageError("keep", expected="one entry per sample", got=str(sorted(counts)))
        return cls(
            samples=tuple(
                TokenLayout(groups=layout.groups, keep={n: i[row] for n, i in keep.items()})
                for row in range(counts.pop())
            )
        )

    @property
    def groups(self) -> tuple[FrameGroup, ...]:
        """Groups of every sample."""
        return self.samples[0].groups

    @property
    def drops(self) -> bool:
        """Whether some samples leave tokens out."""
        return any(sample.drops for sample in self.samples)

    @property
    def num_samples(self) -> int:
        """Samples, one after the other."""
        return len(self.samples)

    def group(self, name: str) -> FrameGroup:
        """The group called ``name``."""
        return self.samples[0].group(name)

    @cached_property
    def dense(self) -> TokenLayout:
        """All tokens of one sample: what tables are made for before rows are taken from them."""
        return TokenLayout.of(self.groups)

    @cached_property
    def streams(self) -> Mapping[Stream, StreamLayout]:
        """Row layout of every stream: sample by sample, each in the order of its own layout."""
        return {stream: self._stream(stream) for stream in self.samples[0].streams}

    def pack_stream(self, stream: Stream, tokens: Mapping[str, Tensor]) -> Tensor:
        """Rows ``[1, L, ...]`` of a stream from full tokens ``[B, F*H*W, ...]`` by group.

        A batch of 1 is spread over all samples.
        """
        joined = self.dense.streams[stream].join(tokens)
        if joined.shape[0] not in (1, self.num_samples):
            raise UsageError(
                "tokens", expected=f"a batch of {self.num_samples}", got=str(joined.shape[0])
            )
        full = joined.expand(self.num_samples, *joined.shape[1:]).flatten(0, 1)
        return full.index_select(0, self._index(stream, full.device))[None]

    def unpack_stream(self, stream: Stream, rows: Tensor) -> dict[str, Tensor]:
        """Full tokens ``[B, F*H*W, ...]`` by group, with zeros where a token was not kept."""
        groups = self.streams[stream].groups
        sizes = [group.grid.num_tokens for group in groups]
        full = rows.new_zeros(self.num_samples * sum(sizes), *rows.shape[2:])
        full = full.index_copy(0, self._index(stream, rows.device), rows[0])
        parts = full.unflatten(0, (self.num_samples, -1)).split(sizes, dim=1)
        return {group.name: part for group, part in zip(groups, parts, strict=True)}

    def dense_rows(self, stream: Stream) -> Tensor:
        """For every row of a stream its number among the rows of ``dense``, int64, ``[L]``."""
        return torch.cat([sample.kept_rows(stream) for sample in self.samples])

    @cached_property
    def _moved(self) -> dict[tuple[Stream, torch.device], Tensor]:
        return {}

    def _index(self, stream: Stream, device: torch.device) -> Tensor:
        """Positions of the rows among the full tokens of all samples; moved once."""
        if (stream, device) not in self._moved:
            with torch.inference_mode(False):  # kept, and perhaps used in training later
                size = self.dense.streams[stream].num_tokens
                parts = [s.kept_rows(stream) + size * row for row, s in enumerate(self.samples)]
                self._moved[stream, device] = torch.cat(parts).to(device)
        return self._moved[stream, device]

    def _stream(self, stream: Stream) -> StreamLayout:
        rows = [sample.streams[stream] for sample in self.samples]
        return StreamLayout(
            groups=rows[0].groups,
            frame_lengths=tuple(length for r in rows for length in r.frame_lengths),
            group_lengths=tuple(length for r in rows for length in r.group_lengths),
            sample_lengths=tuple(r.num_tokens for r in rows),
        )


AnyLayout = TokenLayout | PackedLayout
