"""Where solid textures are evaluated: points on a surface, and what is known of the object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """Points on one object, in its own frame.

    Args:
        position: ``[N, 3]``.
        normal: not necessarily unit, ``[N, 3]``.
        part: material group, ``[N]`` int64.
        footprint: side of the square on the surface that a point stands for, ``[N]``; patterns
            blur their edges over it.
    """

    position: Tensor
    normal: Tensor
    part: Tensor
    footprint: Tensor

    def __len__(self) -> int:
        return self.position.shape[0]

    def select(self, index: Tensor) -> SurfacePoints:
        """The points with the given indices."""
        return SurfacePoints(
            position=self.position[index],
            normal=self.normal[index],
            part=self.part[index],
            footprint=self.footprint[index],
        )

    def mirrored(self) -> SurfacePoints:
        """The points folded onto x >= 0, so that patterns become mirror symmetric."""
        sign = torch.where(self.position[:, :1] < 0, -1.0, 1.0)
        flip = torch.cat([sign, torch.ones_like(sign), torch.ones_like(sign)], dim=1)
        return SurfacePoints(
            position=self.position * flip,
            normal=self.normal * flip,
            part=self.part,
            footprint=self.footprint,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectFacts:
    """What a texture may know about the object that it is drawn for.

    Args:
        low: lowest corner of the bounding box in the object frame.
        high: highest corner.
        num_parts: number of material groups.
        symmetric: whether the plane x = 0 is a mirror.
        anchors: points spread over the surface, ``[A, 3]``.
        anchor_normals: unit normals there, ``[A, 3]``.
        finest: smallest period that a view still shows, in world units.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    num_parts: int
    symmetric: bool
    anchors: Tensor
    anchor_normals: Tensor
    finest: float


Field = Callable[[SurfacePoints], Tensor]
"""A scalar pattern: values ``[N]`` in [0, 1]."""

Paint = Callable[[SurfacePoints], Tensor]
"""A colour pattern: sRGB ``[N, 3]`` in [0, 1]."""


def edge(distance: Tensor, points: SurfacePoints, softness: float = 0.0) -> Tensor:
    """Share of the footprint on the positive side of an edge at signed ``distance [N]``."""
    return (0.5 + distance / (points.footprint + softness)).clamp(0.0, 1.0)
