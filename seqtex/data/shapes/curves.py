"""Random smooth numbers: splines through points, noise in space, rotations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .part import Array


def spline(points: npt.ArrayLike, count: int, *, closed: bool = False) -> Array:
    """``count`` points on a Catmull-Rom spline through ``points [K, D]``, ends included if open."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
        t = np.linspace(0.0, len(knots), count, endpoint=False)
    else:
        first, last = 2 * knots[:1] - knots[1:2], 2 * knots[-1:] - knots[-2:-1]
        padded = np.concatenate([first, knots, last])
        t = np.linspace(0.0, len(knots) - 1, count)
    span = np.minimum(t.astype(np.int64), len(padded) - 4)
    u = (t - span)[:, None]
    a, b, c, d = (padded[span + k] for k in range(4))
    return np.asarray(
        b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    )


def resampled(points: Array, count: int, *, closed: bool = False) -> Array:
    """``count`` points at even distances along the polyline ``points [K, D]``."""
    loop = np.concatenate([points, points[:1]]) if closed else points
    steps = np.linalg.norm(np.diff(loop, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, along[-1], count, endpoint=not closed)
    columns = [np.interp(wanted, along, loop[:, axis]) for axis in range(loop.shape[1])]
    return np.stack(columns, axis=1)


def frames_along(path: Array, *, closed: bool = False) -> Array:
    """Rotation-minimising frames of a path, ``[K, 3, 3]``: rows normal, binormal, tangent."""
    if closed:
        tangents = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    else:
        tangents = np.gradient(path, axis=0)
    tangents = unit(tangents)
    helper = np.eye(3)[np.argmin(np.abs(tangents[0]))]
    normal = unit(np.cross(tangents[0], helper))
    frames = np.empty((len(path), 3, 3))
    for k, tangent in enumerate(tangents):
        normal = unit(normal - tangent * float(normal @ tangent))
        frames[k] = normal, np.cross(tangent, normal), tangent
    if closed:
        frames = _untwisted(frames)
    return frames


def _untwisted(frames: Array) -> Array:
    """Spread the angle that is left over after one turn of a loop evenly along it."""
    last, first = frames[-1], frames[0]
    carried = unit(last[0] - first[2] * float(last[0] @ first[2]))
    gap = np.arctan2(float(carried @ first[1]), float(carried @ first[0]))
    turn = -gap * np.arange(len(frames)) / len(frames)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    normal = cos * frames[:, 0] + sin * frames[:, 1]
    binormal = cos * frames[:, 1] - sin * frames[:, 0]
    return np.stack([normal, binormal, frames[:, 2]], axis=1)


class Waves:
    """A smooth random scalar field in space: a sum of sine waves of random direction.

    Args:
        rng: source of the waves.
        frequency: typical number of periods per unit length.
        octaves: each doubles the frequency and halves the height.
        waves: sine waves per octave.
    """

    def __init__(
        self, rng: np.random.Generator, *, frequency: float, octaves: int = 2, waves: int = 5
    ) -> None:
        scale = np.repeat(2.0 ** np.arange(octaves), waves)
        direction = unit(rng.normal(size=(octaves * waves, 3)))
        spread = rng.uniform(0.6, 1.4, size=(octaves * waves, 1))
        self._vectors = direction * spread * scale[:, None] * frequency * 2 * np.pi
        self._phases = rng.uniform(0, 2 * np.pi, size=octaves * waves)
        self._heights = 1.0 / (scale * np.sqrt(waves))

    def __call__(self, points: Array) -> Array:
        """Values near [-1, 1], ``[N]``."""
        return np.asarray(np.sin(points @ self._vectors.T + self._phases) @ self._heights)


def rotation_about(axis: str, angle: float) -> Array:
    """Rotation matrix about ``x``, ``y`` or ``z`` by ``angle`` in radians."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def random_rotation(rng: np.random.Generator) -> Array:
    """Uniformly distributed rotation matrix."""
    w, x, y, z = unit(rng.normal(size=4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_from_z(direction: npt.ArrayLike) -> Array:
    """A rotation that takes +z to ``direction``."""
    z = unit(np.asarray(direction, dtype=np.float64))
    helper = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = unit(helper - z * float(helper @ z))
    return np.stack([x, np.cross(z, x), z], axis=1)


def unit(vectors: Array) -> Array:
    """Vectors of length 1 along the last axis; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform number as a float."""
    return float(rng.uniform(low, high))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)
