"""Colours of the demo owl, as functions of the position: a solid texture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from demo_owl import EYES, GAZE, Array

CREAM, UMBER, BROWN = (0.96, 0.88, 0.72), (0.27, 0.16, 0.10), (0.55, 0.34, 0.19)
TEAL, DEEP_TEAL, MINT = (0.13, 0.42, 0.47), (0.07, 0.24, 0.31), (0.42, 0.72, 0.68)
AMBER, ORANGE, RED, WHITE = (0.98, 0.74, 0.14), (0.93, 0.52, 0.13), (0.80, 0.16, 0.17), (1, 1, 1)
INK = (0.06, 0.05, 0.07)


def solid_color(points: Array, kind: str) -> Array:
    """SRGB colour of surface points, ``[N, 3]`` in [0, 1].

    Args:
        points: positions in the owl's own frame (z up, facing -y), ``[N, 3]``.
        kind: the ``Part.kind`` of the part that the points lie on.
    """
    color = _PAINT[kind](np.asarray(points, dtype=np.float64))
    grain = 1.0 + 0.05 * (noise(points * 14.0) - 0.5) + 0.05 * (noise(points * 40.0) - 0.5)
    return np.asarray(np.clip(color * grain[:, None], 0.0, 1.0))


def noise(points: Array) -> Array:
    """Smooth value noise in [0, 1], the same on every machine, ``[N]``."""
    cell = np.floor(points).astype(np.int64)
    t = points - cell
    t = t * t * (3.0 - 2.0 * t)
    total = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(np.array(corner) == 1, t, 1.0 - t), axis=1)
        total += weight * _hash(cell + np.array(corner))
    return total


def _hash(cell: npt.NDArray[np.int64]) -> Array:
    mixed = (cell * np.array([73856093, 19349663, 83492791])).sum(axis=1) & 0x7FFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0x7FFFFFFF
    return np.asarray(((mixed ^ (mixed >> 16)) & 0xFFFF) / 65535.0)


def _mix(first: npt.ArrayLike, second: npt.ArrayLike, share: Array) -> Array:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.asarray(a + (b - a) * np.clip(share, 0.0, 1.0)[:, None])


def _step(value: Array, edge: float, width: float) -> Array:
    return np.asarray(np.clip((value - edge) / width + 0.5, 0.0, 1.0))


def _scales(across: Array, height: Array, size: tuple[float, float]) -> tuple[Array, Array]:
    """Feathers like roof tiles: how near the tip's edge, 0 to 1, and how far along the shaft."""
    row = np.floor(height / size[1])
    column = across / size[0] + 0.5 * (row % 2)
    s = column - np.floor(column) - 0.5
    t = height / size[1] - row
    rim = np.hypot(2 * s, np.clip(0.62 - t, 0, 1) * 1.55)
    return rim, np.abs(s)


def _plumage(
    p: Array, base: npt.ArrayLike, edge: npt.ArrayLike, size: tuple[float, float]
) -> Array:
    around = np.arctan2(p[:, 0], -p[:, 1]) * 0.55
    rim, shaft = _scales(around, p[:, 2], size)
    color = _mix(base, edge, _step(rim, 0.86, 0.22))
    return _mix(color, edge, 0.55 * _step(-shaft, -0.045, 0.03))


def _body(p: Array) -> Array:
    back = _plumage(p, TEAL, DEEP_TEAL, (0.16, 0.13))
    chest = _mix(CREAM, (0.90, 0.72, 0.47), 1.1 - p[:, 2])
    rim, _ = _scales(p[:, 0], p[:, 2], (0.15, 0.12))
    spot = _step(-np.hypot(rim - 0.95, 0.0), -0.16, 0.08)
    chest = _mix(chest, BROWN, 0.85 * spot)
    width = 0.40 - 0.45 * (p[:, 2] - 0.72) ** 2 + 0.03 * (noise(p * 9.0) - 0.5)
    front = _step(width - np.abs(p[:, 0]), 0.0, 0.03) * _step(-p[:, 1], 0.02, 0.08)
    return _mix(back, chest, front)


def _head(p: Array) -> Array:
    crown = _plumage(p, TEAL, DEEP_TEAL, (0.13, 0.10))
    stripe = _step(0.075 - np.abs(p[:, 0]) + 0.03 * (p[:, 2] - 1.6), 0.0, 0.02)
    front = _step(-p[:, 1], 0.22, 0.05) * _step(p[:, 2], 1.50, 0.05)
    return _mix(crown, CREAM, stripe * front)


def _disc(p: Array) -> Array:
    side = (p[:, 0] > 0).astype(int)
    distance = np.linalg.norm((p - EYES[side])[:, [0, 2]], axis=1)
    ray = np.arctan2(p[:, 2] - EYES[side][:, 2], p[:, 0] - EYES[side][:, 0])
    streak = 0.5 + 0.5 * np.sin(34 * ray + 5 * noise(p * 20.0))
    color = _mix(CREAM, (0.86, 0.66, 0.42), 0.55 * streak * _step(distance, 0.15, 0.08))
    return _mix(color, UMBER, _step(distance, 0.222, 0.016))


def _eye(p: Array) -> Array:
    side = (p[:, 0] > 0).astype(int)
    toward = GAZE[side] / np.linalg.norm(GAZE[side], axis=1, keepdims=True)
    outward = (p - EYES[side]) / np.linalg.norm(p - EYES[side], axis=1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip((outward * toward).sum(axis=1), -1, 1)))
    iris = _mix(AMBER, ORANGE, _step(angle, 42.0, 26.0))
    color = _mix(INK, iris, _step(angle, 27.0, 3.0))
    color = _mix(color, INK, _step(angle, 57.0, 5.0))
    glint = np.linalg.norm(outward - (toward + np.array([-0.26, 0.0, 0.27])), axis=1)
    return _mix(color, WHITE, _step(-glint, -0.17, 0.04))


def _wing(p: Array) -> Array:
    along = p[:, 2] + 0.25 * p[:, 1]
    rim, shaft = _scales(p[:, 1] + 0.4 * p[:, 0], along, (0.13, 0.17))
    color = _mix(DEEP_TEAL, MINT, _step(rim, 0.84, 0.12) * _step(p[:, 2], 0.92, 0.03))
    color = _mix(color, BROWN, _step(rim, 0.84, 0.12) * _step(-p[:, 2], -0.92, 0.03))
    bar = _step(-np.abs(along - 0.62), -0.035, 0.02)
    return _mix(_mix(color, MINT, 0.45 * _step(-shaft, -0.04, 0.03)), CREAM, bar)


def _tuft(p: Array) -> Array:
    return _mix(TEAL, UMBER, _step(p[:, 2] + 0.05 * noise(p * 16.0), 1.98, 0.10))


def _horn(p: Array) -> Array:
    return _mix(AMBER, ORANGE, noise(p * 10.0))


def _scarf(p: Array) -> Array:
    turn = np.arctan2(p[:, 1] + 0.03, p[:, 0]) / (2 * np.pi) * 22 + 1.2 * (p[:, 2] - 1.2)
    return _mix(RED, CREAM, _step(np.abs(turn - np.round(turn)), 0.32, 0.08))


def _scarf_end(p: Array) -> Array:
    turn = p[:, 2] * 9.0
    color = _mix(RED, CREAM, _step(np.abs(turn - np.round(turn)), 0.32, 0.08))
    fringe = 0.5 + 0.5 * np.sin(p[:, 0] * 160.0)
    return _mix(color, (0.52, 0.08, 0.10), _step(-p[:, 2], -0.79, 0.01) * fringe)


def _bark(p: Array) -> Array:
    stretched = p * np.array([5.0, 22.0, 22.0])
    lines = np.abs(noise(stretched) - 0.5) * 2.0
    color = _mix((0.20, 0.12, 0.08), (0.50, 0.34, 0.21), lines**0.6)
    moss = _step(noise(p * 5.0 + 7.0) + 1.2 * (p[:, 2] + 0.08), 0.72, 0.18)
    return _mix(color, (0.36, 0.50, 0.16), 0.8 * moss)


def _leaf(p: Array) -> Array:
    along, across = p[:, 0] - 0.985, p[:, 1] + 0.10
    vein = np.abs(((along + 0.8 * np.abs(across)) * 22.0) % 1.0 - 0.5)
    color = _mix((0.28, 0.56, 0.17), (0.55, 0.74, 0.25), _step(-vein, -0.1, 0.1))
    return _mix(color, (0.72, 0.84, 0.42), _step(-np.abs(across), -0.008, 0.006))


_PAINT = {
    "body": _body,
    "head": _head,
    "wing": _wing,
    "disc": _disc,
    "eye": _eye,
    "tuft": _tuft,
    "horn": _horn,
    "scarf": _scarf,
    "scarf_end": _scarf_end,
    "bark": _bark,
    "leaf": _leaf,
}
