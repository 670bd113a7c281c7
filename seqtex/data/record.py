"""The geometry of one object as training keeps it: the covered samples of its views and texels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import InputError, UsageError

from .textures.points import ObjectFacts, SurfacePoints

POSITION_STEP = 1.0 / 32767.0
NORMAL_STEP = 1.0 / 127.0
VIEW_DETAIL = 64
_FOOTPRINT_STEPS = 16.0


@dataclass(frozen=True, kw_only=True)
class RecordSizes:
    """How finely objects are sampled.

    Args:
        view_size: pixels of a view, square.
        uv_size: texels of the texture, square.
        supersample: samples per pixel and axis of the views.
        num_views: views of the rig.
    """

    view_size: int = 64
    uv_size: int = 128
    supersample: int = 2
    num_views: int = 4

    def __post_init__(self) -> None:
        if self.fine_size % 4 or self.uv_size % 4 or min(self.fine_size, self.uv_size) < 4:
            raise UsageError(
                "sizes",
                expected="view size x supersample and uv size divisible by 4",
                got=f"{self.view_size} x {self.supersample} and {self.uv_size}",
            )

    @property
    def fine_size(self) -> int:
        """Samples along one side of a view."""
        return self.view_size * self.supersample


@dataclass(frozen=True, kw_only=True, eq=False)
class GeometryRecord:
    """Covered samples of one object, quantised; N in the views, M texels.

    Args:
        view_cover: which samples of the views are covered, packed bits, ``[F S S / 8]`` uint8.
        view_position: world positions in steps of 1/32767, ``[N, 3]`` int16.
        view_normal: interpolated normals in steps of 1/127, ``[N, 3]`` int8.
        view_part: material group, ``[N]`` uint8.
        uv_cover: which texels are covered, packed bits, ``[H W / 8]`` uint8.
        uv_position: as for the views, ``[M, 3]`` int16.
        uv_normal: ``[M, 3]`` int8.
        uv_part: ``[M]`` uint8.
        uv_visible: bit i is set where view i sees the texel, ``[M]`` uint8.
        uv_footprint: world size of the texel, logarithmic, ``[M]`` uint8.
        frame: world to object frame, ``[3, 4]`` float32.
        box: lowest and highest corner in the object frame, ``[2, 3]`` float32.
        eyes: camera centres in the world, ``[F, 3]`` float32.
        anchor_position: points spread over the surface, in the object frame, ``[A, 3]`` float32.
        anchor_normal: unit normals there, ``[A, 3]`` float32.
        scalars: number of material groups, symmetric (0 or 1), bounding-box diagonal; ``[3]``.
    """

    view_cover: Tensor
    view_position: Tensor
    view_normal: Tensor
    view_part: Tensor
    uv_cover: Tensor
    uv_position: Tensor
    uv_normal: Tensor
    uv_part: Tensor
    uv_visible: Tensor
    uv_footprint: Tensor
    frame: Tensor
    box: Tensor
    eyes: Tensor
    anchor_position: Tensor
    anchor_normal: Tensor
    scalars: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All fields by name."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, source: str) -> GeometryRecord:
        """The record whose ``tensors`` these are.

        Raises:
            InputError: a field is missing.
        """
        missing = [name for name in FIELDS if name not in tensors]
        if missing:
            raise InputError(source, expected="a geometry record", got=f"no {', '.join(missing)}")
        return cls(**{name: tensors[name] for name in FIELDS})

    def to(self, device: torch.device | str) -> GeometryRecord:
        """The record on ``device``."""
        return GeometryRecord(**{name: value.to(device) for name, value in self.tensors().items()})

    @property
    def num_view_samples(self) -> int:
        """N, covered samples of all views."""
        return self.view_part.shape[0]

    @property
    def diagonal(self) -> float:
        """Length of the bounding box's diagonal."""
        return float(self.scalars[2])

    def view_index(self) -> Tensor:
        """Flat indices of the covered samples into ``[F, S, S]``, ``[N]`` int64."""
        return unpacked(self.view_cover)

    def uv_index(self) -> Tensor:
        """Flat indices of the covered texels into ``[H, W]``, ``[M]`` int64."""
        return unpacked(self.uv_cover)

    def world_points(self) -> tuple[Tensor, Tensor]:
        """World positions and normals ``[N + M, 3]`` of view samples, then texels."""
        position = torch.cat([self.view_position, self.uv_position]).float() * POSITION_STEP
        normal = torch.cat([self.view_normal, self.uv_normal]).float() * NORMAL_STEP
        return position, normal

    def surface_points(
        self, position: Tensor, normal: Tensor, sizes: RecordSizes, view: Tensor
    ) -> SurfacePoints:
        """The same points in the object frame, for textures.

        Args:
            position: from :meth:`world_points`.
            normal: from :meth:`world_points`.
            sizes: of the record.
            view: the view of each view sample, ``[N]``.
        """
        turn = self.frame[:, :3]
        count = self.num_view_samples
        toward = self.eyes / torch.linalg.vector_norm(self.eyes, dim=-1, keepdim=True)
        slant = (normal[:count] * toward[view]).sum(-1).abs().clamp(0.35, 1.0)
        sample = self.diagonal / sizes.fine_size
        return SurfacePoints(
            position=position @ turn.T + self.frame[:, 3],
            normal=normal @ turn.T,
            part=torch.cat([self.view_part, self.uv_part]).long(),
            footprint=torch.cat([sample / slant, decoded_footprint(self.uv_footprint)]),
        )

    def facts(self) -> ObjectFacts:
        """What textures may know about the object."""
        low, high = self.box.tolist()
        return ObjectFacts(
            low=tuple(low),
            high=tuple(high),
            num_parts=int(self.scalars[0]),
            symmetric=bool(self.scalars[1]),
            anchors=self.anchor_position,
            anchor_normals=self.anchor_normal,
            finest=2.6 * self.diagonal / VIEW_DETAIL,
        )


FIELDS = tuple(f.name for f in fields(GeometryRecord))


def encoded_footprint(size: Tensor) -> Tensor:
    """World sizes as uint8 on a logarithmic scale, 16 steps an octave from 2^-12 upwards."""
    steps = (torch.log2(size.clamp(min=2.0**-12)) + 12.0) * _FOOTPRINT_STEPS
    return steps.round().clamp(0, 255).to(torch.uint8)


def decoded_footprint(code: Tensor) -> Tensor:
    """World sizes of ``encoded_footprint``."""
    return torch.exp2(code.float() / _FOOTPRINT_STEPS - 12.0)


def packed(cover: Tensor) -> Tensor:
    """Boolean values as bits, eight to a byte; the number must be a multiple of 8."""
    return torch.from_numpy(np.packbits(cover.reshape(-1).numpy(), bitorder="little"))


def unpacked(bits: Tensor) -> Tensor:
    """Indices of the set bits, sorted."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return torch.nonzero(((bits[:, None] >> shifts) & 1).reshape(-1))[:, 0]
