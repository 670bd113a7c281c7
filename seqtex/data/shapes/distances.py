"""Signed distances of simple solids, and ways to combine them (Quilez-style formulas)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .part import Array
from .surface_nets import Distance


def ball(center: npt.ArrayLike, radii: npt.ArrayLike) -> Distance:
    """Ellipsoid; a bound on the distance, exact for spheres."""
    middle, size = np.asarray(center, dtype=np.float64), np.asarray(radii, dtype=np.float64)
    size = np.broadcast_to(size, (3,))

    def distance(points: Array) -> Array:
        local = points - middle
        k0 = np.linalg.norm(local / size, axis=1)
        k1 = np.linalg.norm(local / size**2, axis=1)
        return np.asarray(k0 * (k0 - 1.0) / np.maximum(k1, 1e-6))

    return distance


def rod(start: npt.ArrayLike, end: npt.ArrayLike, radius: float, end_radius: float) -> Distance:
    """Capsule whose radius runs from ``radius`` to ``end_radius``."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    axis = b - a
    square = max(float(axis @ axis), 1e-9)

    def distance(points: Array) -> Array:
        local = points - a
        share = np.clip(local @ axis / square, 0.0, 1.0)
        gap = np.linalg.norm(local - share[:, None] * axis, axis=1)
        return np.asarray(gap - (radius + share * (end_radius - radius)))

    return distance


def block(
    center: npt.ArrayLike, half: npt.ArrayLike, *, rounding: float = 0.0, turn: Array | None = None
) -> Distance:
    """Box with rounded edges; ``turn`` rotates it about its centre."""
    middle, size = np.asarray(center, dtype=np.float64), np.asarray(half, dtype=np.float64)
    inner = np.maximum(size - rounding, 1e-3)

    def distance(points: Array) -> Array:
        local = points - middle
        gap = np.abs(local if turn is None else local @ turn) - inner
        outside = np.linalg.norm(np.maximum(gap, 0.0), axis=1)
        return np.asarray(outside + np.minimum(gap.max(axis=1), 0.0) - rounding)

    return distance


def ring(center: npt.ArrayLike, radius: float, thickness: float, turn: Array) -> Distance:
    """Torus about the axis ``turn @ z``."""
    middle = np.asarray(center, dtype=np.float64)

    def distance(points: Array) -> Array:
        local = (points - middle) @ turn
        flat = np.linalg.norm(local[:, :2], axis=1) - radius
        return np.asarray(np.hypot(flat, local[:, 2]) - thickness)

    return distance


def drum(center: npt.ArrayLike, radius: float, half_height: float, turn: Array) -> Distance:
    """Cylinder about the axis ``turn @ z``."""
    middle = np.asarray(center, dtype=np.float64)

    def distance(points: Array) -> Array:
        local = (points - middle) @ turn
        side = np.linalg.norm(local[:, :2], axis=1) - radius
        lid = np.abs(local[:, 2]) - half_height
        outside = np.hypot(np.maximum(side, 0.0), np.maximum(lid, 0.0))
        return np.asarray(outside + np.minimum(np.maximum(side, lid), 0.0))

    return distance


def blended(distances: list[Distance], radius: float) -> Distance:
    """Smooth union: within ``radius`` of each other the solids flow together."""

    def distance(points: Array) -> Array:
        result = distances[0](points)
        for other in distances[1:]:
            value = other(points)
            mix = np.clip(0.5 + 0.5 * (value - result) / radius, 0.0, 1.0)
            result = value + (result - value) * mix - radius * mix * (1.0 - mix)
        return result

    return distance


def without(solid: Distance, hole: Distance, radius: float = 0.02) -> Distance:
    """Smooth difference."""

    def distance(points: Array) -> Array:
        inside, cut = solid(points), -hole(points)
        mix = np.clip(0.5 + 0.5 * (cut - inside) / radius, 0.0, 1.0)
        return np.asarray(inside + (cut - inside) * mix + radius * mix * (1.0 - mix))

    return distance


def common(first: Distance, second: Distance) -> Distance:
    """Intersection."""
    return lambda points: np.maximum(first(points), second(points))


def mirrored(distance: Distance) -> Distance:
    """The solid's half at x >= 0 together with its mirror image."""
    return lambda points: distance(points * np.array([0.0, 1.0, 1.0]) + _right(points))


def _right(points: Array) -> Array:
    shifted = np.zeros_like(points)
    shifted[:, 0] = np.abs(points[:, 0])
    return shifted
