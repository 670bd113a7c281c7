"""What texture kinds draw with: random numbers, a palette, the object's facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .noise import noise_field
from .palettes import Colors
from .points import Field, ObjectFacts, Paint, SurfacePoints

Coordinates = Callable[[SurfacePoints], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Brush:
    """Draws the random parts of one texture kind.

    Args:
        rng: all randomness.
        palette: sRGB colours ``[K, 3]``, the most important first.
        facts: about the object.
    """

    rng: np.random.Generator
    palette: Colors
    facts: ObjectFacts

    def uniform(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """A uniform integer in ``[low, high)``."""
        return int(self.rng.integers(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def frequency(self, low: float, high: float) -> float:
        """Periods per unit length, log-uniform; never finer than a view shows."""
        top = max(min(high, 1.0 / self.facts.finest), 1.2 * low)
        return float(np.exp(self.rng.uniform(np.log(low), np.log(top))))

    def direction(self) -> list[float]:
        """A unit vector: mostly an axis, sometimes diagonal, sometimes any."""
        style = self.rng.random()
        if style < 0.6:
            vector = np.eye(3)[self.rng.choice(3, p=(0.3, 0.25, 0.45))]
        elif style < 0.75:
            vector = self.rng.choice([-1.0, 0.0, 1.0], size=3) + np.array([0.0, 0.0, 1e-3])
        else:
            vector = self.rng.normal(size=3)
        unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return unit

    def turn(self) -> list[list[float]]:
        """A rotation matrix: mostly the identity, sometimes any."""
        if self.chance(0.65):
            return np.eye(3).tolist()
        rotation, _ = np.linalg.qr(self.rng.normal(size=(3, 3)))
        return rotation.tolist()  # type: ignore[no-any-return]

    def center(self) -> list[float]:
        """A point inside the object's box, near its middle."""
        low, high = np.array(self.facts.low), np.array(self.facts.high)
        point: list[float] = (low + (high - low) * self.rng.uniform(0.3, 0.7, size=3)).tolist()
        return point

    def warped(self, probability: float = 0.3, strength: float = 0.25) -> Coordinates:
        """Positions, with the given probability shaken by smooth noise."""
        if not self.chance(probability):
            return lambda points: points.position
        size = self.uniform(0.2, 1.0) * strength
        noise = noise_field(
            self.rng, features=self.uniform(0.8, 2.5), roughness="smooth", channels=3
        )
        return lambda points: points.position + size * noise(points.position)

    def two_tone(self, field: Field, first: int = 0, second: int = 1) -> Paint:
        """Two palette colours mixed by a field."""
        low = self.palette[first % len(self.palette)].tolist()
        high = self.palette[second % len(self.palette)].tolist()

        def paint(points: SurfacePoints) -> Tensor:
            a, b = points.position.new_tensor(low), points.position.new_tensor(high)
            return torch.lerp(a, b, field(points).unsqueeze(-1))

        return paint

    def ramp(self, field: Field, stops: int = 4) -> Paint:
        """Palette colours along a field's values."""
        colors = self.palette[: max(2, min(stops, len(self.palette)))]

        def paint(points: SurfacePoints) -> Tensor:
            return along_ramp(field(points), colors)

        return paint

    def colored(self, field: Field) -> Paint:
        """A field in two colours or along a ramp, at random."""
        if self.chance(0.5):
            return self.two_tone(field)
        return self.ramp(field, self.integer(2, 6))

    def plain(self, index: int | None = None) -> Paint:
        """One palette colour."""
        k = self.integer(0, len(self.palette)) if index is None else index % len(self.palette)
        color = self.palette[k].tolist()

        def paint(points: SurfacePoints) -> Tensor:
            return points.position.new_tensor(color).expand(len(points), 3)

        return paint


def along_ramp(values: Tensor, colors: Colors) -> Tensor:
    """Colours ``[N, 3]`` at ``values [N]`` in [0, 1] along evenly spaced ``colors [K, 3]``."""
    table = torch.from_numpy(np.ascontiguousarray(colors)).to(values)
    scaled = values.clamp(0.0, 1.0) * (len(colors) - 1)
    index = scaled.long().clamp(max=len(colors) - 2)
    share = (scaled - index).unsqueeze(-1)
    return torch.lerp(table[index], table[index + 1], share)


def dot(position: Tensor, direction: list[float]) -> Tensor:
    """Coordinate along a direction, ``[N]``."""
    return position @ position.new_tensor(direction)


def fold(coordinate: Tensor, duty: float) -> Tensor:
    """Signed distance to the nearest border of periodic stripes, in periods; positive inside.

    Stripes cover ``[n, n + duty]`` for every whole n.
    """
    centered = coordinate - duty / 2
    away = (centered - (centered + 0.5).floor()).abs()
    return duty / 2 - away
