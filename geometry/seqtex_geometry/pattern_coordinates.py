"""Coordinates in which the pattern of a surface may repeat.

Where colours depend on some coordinates only, such as the height, a point that nobody has seen
takes the colour of the seen points with the same coordinates, however far away they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_TIE = 0.1
"""Weight of the coordinates that only choose between points that are otherwise equally near."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PatternPoints:
    """Points of a surface, in the frame in which patterns are looked for.

    Args:
        position: ``[N, 3]``, z up, the bounding box of all points centred on 0 and its longest
            half-edge 1.
        normal: unit length or zero, ``[N, 3]``.
        facing: unit vector ``[3]`` towards those who saw the surface.
    """

    position: Array
    normal: Array
    facing: Array

    @classmethod
    def of(cls, position: Array, normal: Array, known: npt.NDArray[np.bool_]) -> PatternPoints:
        """Points ``[N, 3]`` of which the known ones were seen, moved and scaled into the frame."""
        low, high = position.min(0), position.max(0)
        scale = max(float((high - low).max()) / 2, 1e-9)
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        unit = (normal / np.maximum(length, 1e-6)).astype(np.float32)
        mean = unit[known].mean(0)
        return cls(
            position=((position - (low + high) / 2) / scale).astype(np.float32),
            normal=unit,
            facing=mean / max(float(np.linalg.norm(mean)), 1e-6),
        )

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> PatternPoints:
        """Some of the points."""
        return PatternPoints(
            position=self.position[rows], normal=self.normal[rows], facing=self.facing
        )

    @property
    def depth(self) -> Array:
        """Position along the line of sight, ``[N]``."""
        return self.position @ self.facing

    @property
    def toward(self) -> Array:
        """Cosine between the normal and the line of sight, ``[N]``."""
        return self.normal @ self.facing

    @property
    def radius(self) -> Array:
        """Distance from the upright axis, ``[N]``."""
        distance: Array = np.linalg.norm(self.position[:, :2], axis=1)
        return distance


def _through(points: PatternPoints) -> Array:
    depth = points.depth[:, None]
    flat = points.position - depth * points.facing
    return np.concatenate([flat, 0.5 * _TIE * depth], axis=1)


def _height(points: PatternPoints) -> Array:
    return points.position * np.array([_TIE, _TIE, 1], dtype=np.float32)


def _ring(points: PatternPoints) -> Array:
    return np.concatenate([_height(points), points.radius[:, None]], axis=1)


def _mirrored(points: PatternPoints) -> Array:
    return np.concatenate([np.abs(points.position[:, :2]), points.position[:, 2:]], axis=1)


def _across(points: PatternPoints) -> Array:
    return points.position * np.array([1, _TIE, _TIE], dtype=np.float32)


COORDINATES: Mapping[str, Callable[[PatternPoints], Array]] = {
    "through": _through,
    "height": _height,
    "ring": _ring,
    "mirrored": _mirrored,
    "across": _across,
}
"""Coordinates ``[N, D]`` by name: the same line of sight, the same height, the same height and
distance from the upright axis, the mirror image in x or y, and the same distance to the left."""


def pattern_features(points: PatternPoints) -> Array:
    """Everything that a colour may depend on, ``[N, 9]``: position, mirrored and radial, normal."""
    return np.concatenate(
        [points.position, np.abs(points.position[:, :2]), points.radius[:, None], points.normal],
        axis=1,
    )
