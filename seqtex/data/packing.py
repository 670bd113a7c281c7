"""Packing rectangles into the unit square, in rows."""

from __future__ import annotations

import numpy as np

from .shapes.part import Array


def pack_rectangles(sizes: Array, *, padding: float) -> tuple[Array, float]:
    """Where each rectangle goes, and by how much all of them are scaled.

    Rows are filled from the tallest rectangle to the lowest; the scale is the largest for which
    all rows fit, found by bisection.

    Args:
        sizes: widths and heights, ``[N, 2]``, any unit.
        padding: gap around every rectangle, as a share of the square.

    Returns:
        Lower left corners ``[N, 2]`` in [0, 1] and the scale.
    """
    order = np.argsort(-sizes[:, 1], kind="stable")
    low = 0.0
    high = 1.0 / max(float(sizes.max()), float(np.sqrt(sizes.prod(axis=1).sum())), 1e-9)
    for _ in range(14):
        middle = (low + high) / 2
        if _rows(sizes * middle, order, padding) is None:
            high = middle
        else:
            low = middle
    placed = _rows(sizes * low, order, padding)
    if placed is None:
        raise AssertionError("more rectangles than the padding leaves room for")
    return placed, low


def _rows(sizes: Array, order: np.ndarray, padding: float) -> Array | None:
    """Corners ``[N, 2]``, or ``None`` if the rows do not fit."""
    origins = np.zeros_like(sizes)
    x = y = padding
    tallest = 0.0
    for k in order:
        width, height = sizes[k]
        if width + 2 * padding > 1.0:
            return None
        if x + width + padding > 1.0:
            x, y, tallest = padding, y + tallest + padding, 0.0
        if y + height + padding > 1.0:
            return None
        origins[k] = x, y
        x, tallest = x + width + padding, max(tallest, float(height))
    return origins
