"""Frame groups and the token layout they make: the one description of a sequence.

A sequence is an ordered list of frame groups (views, UV texture, later material maps). Each group
has its own token grid and belongs to one stream (branch). Nothing in the library assumes four views
and one texture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .checks import check_type
from .errors import UsageError

Stream = Literal["mv", "uv"]
STREAMS: tuple[Stream, ...] = ("mv", "uv")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of tokens: ``frames x height x width``, width fastest."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        sizes = (self.frames, self.height, self.width)
        if not all(isinstance(size, int) for size in sizes) or min(sizes) < 1:
            raise UsageError("grid", expected="positive whole numbers", got=str(self))

    @property
    def tokens_per_frame(self) -> int:
        """Tokens in one frame."""
        return self.height * self.width

    @property
    def num_tokens(self) -> int:
        """Tokens in all frames."""
        return self.frames * self.tokens_per_frame


@dataclass(frozen=True, kw_only=True)
class FrameGroup:
    """Frames of one size that live in one branch.

    Args:
        name: key under which the group's latents travel, unique in a layout ("views", "texture").
        stream: ``"mv"`` reads only the mv stream; ``"uv"`` reads both.
        grid: token grid after patchify.

    Raises:
        UsageError: an unknown stream, or what is no ``Grid``.
    """

    name: str
    stream: Stream
    grid: Grid

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise UsageError("stream", expected=f"one of {STREAMS}", got=repr(self.stream))
        check_type("grid", self.grid, Grid)


@dataclass(frozen=True, kw_only=True)
class StreamLayout:
    """The token rows of one stream: its groups one after the other, frame by frame.

    Args:
        groups: groups of the stream, in order.
        frame_lengths: tokens of every frame, in order; after packing they may differ or be 0.
        group_lengths: tokens of every group, in order.
        sample_lengths: tokens of every sample, where samples follow each other in a batch of 1
            (then the frames and groups are those of all samples, in order); empty where samples
            are the batch.
    """

    groups: tuple[FrameGroup, ...]
    frame_lengths: tuple[int, ...]
    group_lengths: tuple[int, ...]
    sample_lengths: tuple[int, ...] = ()

    @property
    def num_frames(self) -> int:
        """Frames in the stream."""
        return len(self.frame_lengths)

    @property
    def num_tokens(self) -> int:
        """Token rows in the stream."""
        return sum(self.frame_lengths)

    def uniform_length(self) -> int | None:
        """Tokens per frame if all frames have the same number, else ``None``."""
        lengths = set(self.frame_lengths)
        return lengths.pop() if len(lengths) == 1 else None

    def frame_of_row(self, device: torch.device) -> Tensor:
        """The frame that every row belongs to, int64, ``[L]``; made once for a device."""
        if device not in self._frame_of_row:
            with torch.inference_mode(False):  # kept, and perhaps used in training later
                lengths = torch.tensor(self.frame_lengths)
                index = torch.repeat_interleave(torch.arange(self.num_frames), lengths)
                self._frame_of_row[device] = index.to(device)
        return self._frame_of_row[device]

    @cached_property
    def _frame_of_row(self) -> dict[torch.device, Tensor]:
        return {}

    def split_groups(self, rows: Tensor) -> dict[str, Tensor]:
        """``{group name: [B, L_group, ...]}`` from the stream's rows ``[B, L, ...]``."""
        parts = rows.split(self.group_lengths, dim=1)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def split_frames(self, per_frame: Tensor) -> dict[str, Tensor]:
        """``{group name: [B, F_group, ...]}`` from per-frame values ``[B, F, ...]``."""
        parts = per_frame.split([group.grid.frames for group in self.groups], dim=1)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def join(self, per_group: Mapping[str, Tensor]) -> Tensor:
        """Concatenate per-group tensors along dimension 1, in the order of the stream."""
        parts = [per_group[group.name] for group in self.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLayout:
    """Which token row belongs to which frame of which group, for both streams.

    Temporal positions run over the groups in the order given, starting at 0 (paper, Alg. 1: views
    first, the texture follows at once).

    Args:
        groups: all groups; names are unique.
        keep: optional packing: per group name which of the group's ``F*H*W`` tokens are present, as
            sorted indices (int64, ``[K]``) or as a boolean mask (``[F*H*W]`` or ``[F, H, W]``),
            which is turned into indices. Groups not named keep all.

    Raises:
        UsageError: repeated names, or indices that are not sorted, unique and inside the grid.
    """

    groups: tuple[FrameGroup, ...]
    keep: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.groups:
            check_type("frame groups", group, FrameGroup)
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names) or not names:
            raise UsageError("frame groups", expected="at least one, unique names", got=str(names))
        if unknown := sorted(set(self.keep) - set(names)):
            raise UsageError("keep", expected=f"groups among {names}", got=str(unknown))
        kept = {name: _kept_indices(self.group(name), given) for name, given in self.keep.items()}
        object.__setattr__(self, "keep", kept)

    @classmethod
    def of(cls, groups: Iterable[FrameGroup]) -> TokenLayout:
        """A layout of all tokens of ``groups``."""
        return cls(groups=tuple(groups))

    @property
    def drops(self) -> bool:
        """Whether some groups name the tokens that they keep."""
        return bool(self.keep)

    def group(self, name: str) -> FrameGroup:
        """The group called ``name``."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise UsageError("frame group", expected=f"one of {known}", got=repr(name))

    def first_frame(self, name: str) -> int:
        """Temporal position of the first frame of group ``name``."""
        start = 0
        for group in self.groups:
            if group.name == name:
                return start
            start += group.grid.frames
        self.group(name)
        raise AssertionError("unreachable: group() raises for unknown names")

    @cached_property
    def streams(self) -> Mapping[Stream, StreamLayout]:
        """Row layout of every stream that has a group."""
        present = [s for s in STREAMS if any(group.stream == s for group in self.groups)]
        return {stream: self._stream(stream) for stream in present}

    @cached_property
    def all_rows(self) -> StreamLayout:
        """Rows of all streams as one sequence, in the order of ``STREAMS``: for plain models."""
        return _joined(list(self.streams.values()))

    def without(self, stream: Stream) -> TokenLayout:
        """The same layout less all groups of ``stream``; temporal positions must not depend on it.

        Only groups at the end may go, so that the others keep their positions.
        """
        kept = tuple(group for group in self.groups if group.stream != stream)
        if self.groups[: len(kept)] != kept:
            raise UsageError("layout", expected=f"{stream!r} groups last", got="another order")
        keep = {name: i for name, i in self.keep.items() if self.group(name).stream != stream}
        return TokenLayout(groups=kept, keep=keep)

    def pack(self, name: str, tokens: Tensor) -> Tensor:
        """Kept tokens ``[B, K, ...]`` of a group's full tokens ``[B, F*H*W, ...]``."""
        index = self._kept(name, tokens.device)
        return tokens if index is None else tokens.index_select(1, index)

    def unpack(self, name: str, tokens: Tensor) -> Tensor:
        """Full tokens ``[B, F*H*W, ...]`` with zeros where a token was not kept."""
        index = self._kept(name, tokens.device)
        if index is None:
            return tokens
        full = tokens.new_zeros(
            tokens.shape[0], self.group(name).grid.num_tokens, *tokens.shape[2:]
        )
        return full.index_copy(1, index, tokens)

    def pack_stream(self, stream: Stream, tokens: Mapping[str, Tensor]) -> Tensor:
        """Rows ``[B, L, ...]`` of a stream from full tokens ``[B, F*H*W, ...]`` by group."""
        rows = self.streams[stream]
        return rows.join({g.name: self.pack(g.name, tokens[g.name]) for g in rows.groups})

    def unpack_stream(self, stream: Stream, rows: Tensor) -> dict[str, Tensor]:
        """Full tokens ``[B, F*H*W, ...]`` by group, with zeros where a token was not kept."""
        parts = self.streams[stream].split_groups(rows)
        return {name: self.unpack(name, part) for name, part in parts.items()}

    def kept_rows(self, stream: Stream) -> Tensor:
        """Positions of a stream's rows among its full tokens, int64 on the CPU, ``[L]``."""
        parts, start = [], 0
        for group in self.streams[stream].groups:
            size = group.grid.num_tokens
            index = self.keep.get(group.name)
            parts.append(start + (torch.arange(size) if index is None else index.cpu()))
            start += size
        return torch.cat(parts)

    @cached_property
    def _moved(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    def _kept(self, name: str, device: torch.device) -> Tensor | None:
        """Indices of a group on ``device``; moved once, as the host waits for every move."""
        index = self.keep.get(name)
        if index is None or index.device == device:
            return index
        if (name, device) not in self._moved:
            self._moved[name, device] = index.to(device)
        return self._moved[name, device]

    def _stream(self, stream: Stream) -> StreamLayout:
        groups = tuple(group for group in self.groups if group.stream == stream)
        frame_lengths: list[int] = []
        group_lengths: list[int] = []
        for group in groups:
            lengths = self._frame_lengths(group)
            frame_lengths += lengths
            group_lengths.append(sum(lengths))
        return StreamLayout(
            groups=groups,
            frame_lengths=tuple(frame_lengths),
            group_lengths=tuple(group_lengths),
        )

    def _frame_lengths(self, group: FrameGroup) -> Sequence[int]:
        index = self.keep.get(group.name)
        if index is None:
            return [group.grid.tokens_per_frame] * group.grid.frames
        frame = index // group.grid.tokens_per_frame
        counts: list[int] = torch.bincount(frame, minlength=group.grid.frames).tolist()
        return counts


def _kept_indices(group: FrameGroup, given: Tensor) -> Tensor:
    """Indices of a group's kept tokens, from indices or from a mask."""
    subject, grid = f"keep[{group.name!r}]", group.grid
    check_type(subject, given, Tensor)
    shape, limit = tuple(given.shape), grid.num_tokens
    if given.dtype == torch.bool and shape in ((limit,), (grid.frames, grid.height, grid.width)):
        return given.flatten().nonzero().flatten()
    if given.dtype != torch.int64 or given.ndim != 1:
        raise UsageError(
            subject,
            expected=f"int64 indices [K] or a boolean mask [{limit}]",
            got=f"{given.dtype} {shape}",
        )
    if bool((given[1:] <= given[:-1]).any()):
        raise UsageError(subject, expected="sorted, unique indices", got="others")
    if given.numel() and (given[0] < 0 or given[-1] >= limit):
        raise UsageError(
            subject,
            expected=f"indices from 0 to {limit - 1}",
            got=f"{int(given[0])} to {int(given[-1])}",
        )
    return given


def _joined(streams: Sequence[StreamLayout]) -> StreamLayout:
    return StreamLayout(
        groups=tuple(group for rows in streams for group in rows.groups),
        frame_lengths=tuple(length for rows in streams for length in rows.frame_lengths),
        group_lengths=tuple(length for rows in streams for length in rows.group_lengths),
    )
