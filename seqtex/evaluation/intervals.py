"""Means and medians with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqtex_core.errors import UsageError

RESAMPLES = 4000
LEVEL = 0.95
_SEED = 20250704
_CHUNK = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a sample says about the objects that it was drawn from.

    Args:
        count: number of values.
        mean: their mean.
        mean_interval: 95% bootstrap interval of the mean.
        median: their median.
        median_interval: likewise.
        share_above_zero: of the values; the share of wins where they are differences.
    """

    count: int
    mean: float
    mean_interval: tuple[float, float]
    median: float
    median_interval: tuple[float, float]
    share_above_zero: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        record = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and median of ``values`` with percentile intervals from resampled objects.

    The resampling has a seed of its own: the same values always give the same intervals.

    Raises:
        UsageError: no values.
    """
    if len(values) == 0:
        raise UsageError("values", expected="at least one", got="none")
    sample = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(_SEED)
    means, medians = [], []
    rows = max(1, _CHUNK // len(sample))
    for start in range(0, RESAMPLES, rows):
        size = (min(rows, RESAMPLES - start), len(sample))
        drawn = sample[rng.integers(len(sample), size=size)]
        means.append(drawn.mean(axis=1))
        medians.append(np.median(drawn, axis=1))
    return Estimate(
        count=len(sample),
        mean=float(sample.mean()),
        mean_interval=_interval(np.concatenate(means)),
        median=float(np.median(sample)),
        median_interval=_interval(np.concatenate(medians)),
        share_above_zero=float((sample > 0).mean()),
    )


def _interval(draws: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)
