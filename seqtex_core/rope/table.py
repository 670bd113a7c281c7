"""Tables for any list of frame groups: temporal positions run on, each group has its own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..checks import check_shape, check_type
from ..errors import UsageError
from ..frames import Grid, Stream, TokenLayout
from .rotate import Pairing, Rope

AxisDims = tuple[int, int, int]
LinspaceEnd = Literal["diffusers", "aligned"]
LINSPACE_ENDS: tuple[LinspaceEnd, ...] = ("diffusers", "aligned")
GridSpread = Literal["extrapolate", "interpolate"]
GRID_SPREADS: tuple[GridSpread, ...] = ("extrapolate", "interpolate")


class RopePolicy(Protocol):
    """How a grid's tokens are laid out in the coordinates that the model was trained on."""

    def spatial_positions(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Row and column coordinates of ``grid``, fp64, ``[H]`` and ``[W]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """Integer coordinates 0, 1, 2, ... on every grid, however large (Wan2.1)."""

    def spatial_positions(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """``0 .. H-1`` and ``0 .. W-1``."""
        return _count(grid.height), _count(grid.width)


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """Every grid is spread over the part of one base grid that has its aspect ratio (CogVideoX).

    Args:
        base_height: rows of the grid that the model was trained on, in tokens.
        base_width: its columns.
        linspace_end: where the last token lies. ``"diffusers"``: at ``stop * (n-1)/n``, which
            stretches the step when the region does not start at 0 (the pretrained model's own
            coordinates); ``"aligned"``: at ``start + (stop-start) * (n-1)/n``, so that grids
            of one shape and of twice its size share coordinates exactly.

    Raises:
        UsageError: an empty base grid or an unknown ``linspace_end``.
    """

    base_height: int
    base_width: int
    linspace_end: LinspaceEnd = "diffusers"

    def __post_init__(self) -> None:
        if min(self.base_height, self.base_width) < 1:
            raise UsageError("base grid", expected="positive height and width", got=str(self))
        if self.linspace_end not in LINSPACE_ENDS:
            raise UsageError(
                "linspace_end", expected="'diffusers' or 'aligned'", got=repr(self.linspace_end)
            )

    def region(self, grid: Grid) -> tuple[int, int, int, int]:
        """Top, left, bottom, right of the centred region with the aspect ratio of ``grid``."""
        if grid.height * self.base_width > self.base_height * grid.width:
            rows = self.base_height
            columns = round(self.base_height / grid.height * grid.width)
        else:
            rows = round(self.base_width / grid.width * grid.height)
            columns = self.base_width
        top = round((self.base_height - rows) / 2)
        left = round((self.base_width - columns) / 2)
        return top, left, top + rows, left + columns

    def spatial_positions(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Coordinates inside :meth:`region`."""
        top, left, bottom, right = self.region(grid)
        return self._axis(top, bottom, grid.height), self._axis(left, right, grid.width)

    def _axis(self, start: int, stop: int, count: int) -> Tensor:
        last = stop * (count - 1) / count
        if self.linspace_end == "aligned":
            last = start + (stop - start) * (count - 1) / count
        return torch.linspace(start, last, count, dtype=torch.float64)


def spread_policy(spread: GridSpread, layout: TokenLayout) -> RopePolicy:
    """The spatial coordinates of groups that differ in size, for models without a base grid.

    Args:
        spread: ``"extrapolate"``: every group counts its own rows and columns, so that a texture
            twice as fine as the views is twice as large; ``"interpolate"``: every group lies over
            the first one, so that its positions come between those of the views.
        layout: the groups.

    Raises:
        UsageError: an unknown ``spread``.
    """
    if spread not in GRID_SPREADS:
        raise UsageError("spread", expected=f"one of {GRID_SPREADS}", got=repr(spread))
    if spread == "extrapolate":
        return Extrapolation()
    first = layout.groups[0].grid
    return Interpolation(base_height=first.height, base_width=first.width, linspace_end="aligned")


def wan_axis_dims(head_dim: int) -> AxisDims:
    """Channels per axis (frames, height, width) in Wan and its relatives: 44, 42, 42 for 128.

    Raises:
        UsageError: an odd number.
    """
    if head_dim < 2 or head_dim % 2:
        raise UsageError("head_dim", expected="an even number", got=str(head_dim))
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def cogvideox_axis_dims(head_dim: int) -> AxisDims:
    """Channels per axis (frames, height, width) in CogVideoX: 16, 24, 24 for 64."""
    spatial = head_dim // 8 * 3
    return head_dim // 4, spatial, spatial


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """What a backbone fixes about its rotary positions.

    Args:
        axis_dims: channels that turn with frame, height and width; even, their sum is the head
            dim.
        policy: spatial coordinates of a grid.
        theta: base of the frequencies ``theta^(-2i/axis_dim)``; one number, or one per axis.
        pairing: which channels form a plane.

    Raises:
        UsageError: odd or negative ``axis_dims`` or not three, a base that is not positive, an
            unknown pairing, or a policy that is none (a class, not made yet).
    """

    axis_dims: AxisDims
    policy: RopePolicy = Extrapolation()
    theta: float | tuple[float, float, float] = 1e4
    pairing: Pairing = "interleaved"

    def __post_init__(self) -> None:
        odd = any(dim < 0 or dim % 2 for dim in self.axis_dims)
        if len(self.axis_dims) != 3 or odd or sum(self.axis_dims) == 0:
            raise UsageError("axis_dims", expected="three even sizes", got=str(self.axis_dims))
        if len(self._bases) != 3 or not all(base > 0 for base in self._bases):
            raise UsageError(
                "theta", expected="a positive number, or three of them", got=str(self.theta)
            )
        if self.pairing not in ("interleaved", "half"):
            raise UsageError("pairing", expected="'interleaved' or 'half'", got=repr(self.pairing))
        if isinstance(self.policy, type) or not hasattr(self.policy, "spatial_positions"):
            raise UsageError(
                "policy",
                expected="Extrapolation(), Interpolation(...) or another RopePolicy",
                got=repr(self.policy),
            )

    @property
    def _bases(self) -> tuple[float, ...]:
        return self.theta if isinstance(self.theta, tuple) else (self.theta,) * 3

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return sum(self.axis_dims)

    def frequencies(self) -> tuple[Tensor, Tensor, Tensor]:
        """Angle per unit of position for frame, height and width, fp64, ``[axis_dim / 2]``."""
        frames, height, width = (
            1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for base, dim in zip(self._bases, self.axis_dims, strict=True)
        )
        return frames, height, width


def rope_table(
    layout: TokenLayout,
    spec: RopeSpec,
    *,
    temporal_offset: float = 0.0,
    frame_positions: Mapping[str, Sequence[float]] | None = None,
    device: torch.device | str | None = None,
) -> dict[Stream, Rope]:
    """Tables of every stream in ``layout``, rows in the order of the stream's tokens.

    Angles are computed in fp64 and stored as fp32; build the tables once per object, not per
    step. No size is too large.

    Args:
        layout: frame groups; temporal positions run over them in order, starting at 0. Tokens
            that ``layout.keep`` leaves out have no row.
        spec: axis split, coordinates and frequencies.
        temporal_offset: added to every temporal position (1 for the paper's text, which counts
            frames from 1; Alg. 1 and the pretrained models count from 0). It matters only when
            geometry is added after the rotation.
        frame_positions: temporal positions by group name, instead of the sequential ones.
        device: where the tables go; CPU by default.

    Raises:
        UsageError: no ``TokenLayout``, positions for an unknown group, or not one per frame.

    Source: paper Alg. 1.
    """
    check_type("layout", layout, TokenLayout, remedy="Use TokenLayout.of([group, ...]).")
    check_type("spec", spec, RopeSpec)
    given = dict(frame_positions or {})
    for name, positions in given.items():
        frames = layout.group(name).grid.frames
        if len(positions) != frames:
            raise UsageError(
                f"frame_positions[{name!r}]", expected=f"{frames} numbers", got=str(len(positions))
            )
    tables: dict[Stream, Rope] = {}
    for stream, rows in layout.streams.items():
        parts: list[Rope] = []
        for group in rows.groups:
            first = layout.first_frame(group.name)
            frame = torch.tensor(
                given.get(group.name, range(first, first + group.grid.frames)), dtype=torch.float64
            )
            part = rope_for_grid(group.grid, spec, frame_positions=frame + temporal_offset)
            keep = layout.keep.get(group.name)
            parts.append(part if keep is None else part.rows(keep.cpu()))
        table = Rope.cat(parts)
        tables[stream] = table if device is None else table.to(device)
    return tables


def rope_for_grid(grid: Grid, spec: RopeSpec, *, frame_positions: Tensor | None = None) -> Rope:
    """Table of one grid, ``[F*H*W, D/2]`` on CPU, width fastest.

    Args:
        grid: token grid.
        spec: axis split, coordinates and frequencies.
        frame_positions: temporal position of each frame, ``[F]``; 0, 1, 2, ... by default.

    Raises:
        UsageError: not one position per frame.
    """
    frames = _count(grid.frames) if frame_positions is None else frame_positions
    check_shape("frame_positions", frames, (grid.frames,), "F")
    positions = (frames.double(), *spec.policy.spatial_positions(grid))
    size = (grid.frames, grid.height, grid.width)
    angles: list[Tensor] = []
    for axis, (position, frequency) in enumerate(zip(positions, spec.frequencies(), strict=True)):
        view = [1, 1, 1, frequency.numel()]
        view[axis] = size[axis]
        angles.append(torch.outer(position, frequency).view(view))

    def join(parts: Sequence[Tensor]) -> Tensor:
        full = [part.float().expand(*size, -1) for part in parts]
        return torch.cat(full, dim=-1).reshape(grid.num_tokens, -1)

    return Rope(
        cos=join([angle.cos() for angle in angles]),
        sin=join([angle.sin() for angle in angles]),
        pairing=spec.pairing,
    )


def _count(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)
