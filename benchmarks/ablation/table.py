"""Variant minus baseline: paired by object, and beside it how much equal runs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from seqtex.evaluation.intervals import LEVEL, estimate

from .variants import BASELINE

Run = Mapping[str, Any]
Verdict = Literal["yes", "objects only", "no"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a variant compares with the baseline in one measure.

    Args:
        variant: its name.
        measure: name of the measure.
        steps: sampling steps.
        seeds: common seeds of the two.
        objects: objects that both have a value for.
        mean: variant minus baseline in dB, mean over objects and seeds.
        interval: 95% bootstrap interval over objects, the seeds of each object averaged.
        by_seed: mean difference of every seed.
        run_half_width: half of the 95% interval of the mean over seeds, see ``run_half_width``.
        separates: "yes": further from 0 than objects and runs together explain; "objects only":
            the interval over objects excludes 0, but other seeds might differ as much; "no".
    """

    variant: str
    measure: str
    steps: int
    seeds: tuple[int, ...]
    objects: int
    mean: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    run_half_width: float | None
    separates: Verdict


def difference(runs: Sequence[Run], variant: str, measure: str, *, steps: int) -> Difference | None:
    """The comparison, or ``None`` if there is nothing to compare.

    Args:
        runs: finished runs of all variants.
        variant: name.
        measure: name.
        steps: sampling steps.
    """
    own = {run["seed"]: run for run in runs if run["variant"] == variant}
    base = {run["seed"]: run for run in runs if run["variant"] == BASELINE}
    seeds = tuple(sorted(set(own) & set(base)))
    if not seeds:
        return None
    rows = np.array(
        [_values(own[s], measure, steps) - _values(base[s], measure, steps) for s in seeds]
    )
    usable = np.isfinite(rows).all(axis=0)
    if not usable.any():
        return None
    rows = rows[:, usable]
    found = estimate(rows.mean(axis=0).tolist())
    groups = [list(base.values()), list(own.values())]
    spread = run_half_width(groups, measure, steps=steps, seeds=len(seeds))
    return Difference(
        variant=variant,
        measure=measure,
        steps=steps,
        seeds=seeds,
        objects=int(usable.sum()),
        mean=found.mean,
        interval=found.mean_interval,
        by_seed=tuple(float(value) for value in rows.mean(axis=1)),
        run_half_width=spread,
        separates=verdict(found.mean, found.mean_interval, spread),
    )


def run_half_width(
    groups: Sequence[Sequence[Run]], measure: str, *, steps: int, seeds: int
) -> float | None:
    """How far two means over ``seeds`` runs each may lie apart by chance, by Student's t.

    From the spread of the seeds within each group of equal runs, pooled over the groups. It leaves
    out that variant and baseline of one seed share their data, so it is rather too wide.

    Args:
        groups: runs that differ in their seeds only, such as those of baseline and variant.
        measure: name.
        steps: sampling steps.
        seeds: that the compared means are over.

    Returns:
        Half of the 95% interval, or ``None`` if no group has two runs.
    """
    freedom, squares = 0, 0.0
    for runs in groups:
        means = [float(np.nanmean(_values(run, measure, steps))) for run in runs]
        freedom += len(means) - 1
        squares += float(np.var(means)) * len(means)
    if freedom < 1:
        return None
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + LEVEL / 2, freedom))
    return quantile * math.sqrt(squares / freedom) * math.sqrt(2.0 / seeds)


def verdict(mean: float, interval: tuple[float, float], run_spread: float | None) -> Verdict:
    """Whether a difference is one, see :class:`Difference`."""
    low, high = interval
    if low <= 0 <= high:
        return "no"
    if run_spread is None:
        return "objects only"
    nearer = mean - low if mean > 0 else high - mean
    return "yes" if abs(mean) > math.hypot(nearer, run_spread) else "objects only"


def mean_value(runs: Sequence[Run], variant: str, measure: str, *, steps: int) -> float | None:
    """Mean of a measure over objects and seeds; the baseline's further seeds are left out."""
    others = {run["seed"] for run in runs if run["variant"] != BASELINE}
    found = [
        _values(run, measure, steps)
        for run in runs
        if run["variant"] == variant and (run["seed"] in others or not others)
    ]
    if not found or not np.isfinite(found).any():
        return None
    return float(np.nanmean(found))


def _values(run: Run, measure: str, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    listed = run["values"][str(steps)][measure]
    return np.array([np.nan if value is None else value for value in listed], dtype=np.float64)
