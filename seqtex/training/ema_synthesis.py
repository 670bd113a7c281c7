"""Averages of any length, made after training from snapshots of two tracked ones.

Source:
    Karras et al. (arXiv 2312.02696), section 3.2 and appendix C.2: least squares over profiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import UsageError

from .ema import profile_exponent


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One averaged set of weights: up to when, and how wide.

    Args:
        step: training step at which the average was taken, from 1.
        sigma_rel: width of its profile.
    """

    step: int
    sigma_rel: float


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How snapshots are summed.

    Args:
        weights: one per snapshot; they sum to about 1.
        error: distance between the wanted profile and the sum, over the former's size; 0 is exact.
    """

    weights: tuple[float, ...]
    error: float


def synthesis_weights(snapshots: Sequence[Profile], wanted: Profile) -> Mixture:
    """Weights with which snapshots add up to the wanted average.

    Snapshots later than the wanted step are not used.

    Args:
        snapshots: what was stored.
        wanted: the average to make.

    Raises:
        UsageError: no snapshot at or before the wanted step.
    """
    used = [index for index, profile in enumerate(snapshots) if profile.step <= wanted.step]
    if not used:
        raise UsageError("EMA snapshots", expected=f"some up to step {wanted.step}", got="none")
    profiles = [snapshots[index] for index in used]
    gram = np.array([[_overlap(a, b) for b in profiles] for a in profiles])
    right = np.array([_overlap(a, wanted) for a in profiles])
    scale = np.sqrt(np.diag(gram))
    scaled = gram / np.outer(scale, scale)  # profiles of unit size: a well-scaled system
    solution = np.linalg.lstsq(scaled, right / scale, rcond=1e-12)[0] / scale
    size = _overlap(wanted, wanted)
    squared = size - 2 * solution @ right + solution @ gram @ solution
    weights = np.zeros(len(snapshots))
    weights[used] = solution
    return Mixture(
        weights=tuple(float(w) for w in weights),
        error=float(np.sqrt(max(squared, 0.0) / size)),
    )


def profile_curve(profile: Profile, steps: int) -> npt.NDArray[np.float64]:
    """Weight of every training step 1 to ``steps`` in an average: ``t^gamma``, normalised."""
    exponent = profile_exponent(profile.sigma_rel)
    edges = np.clip(np.arange(steps + 1) / profile.step, 0.0, 1.0) ** (exponent + 1)
    return np.diff(edges)


def _overlap(a: Profile, b: Profile) -> float:
    """Integral of the product of two profiles."""
    ga, gb = profile_exponent(a.sigma_rel), profile_exponent(b.sigma_rel)
    first = min(a.step, b.step)
    # first^(ga + gb + 1) / (a^(ga + 1) b^(gb + 1)), in an order that cannot overflow
    shape = (first / a.step) ** ga * (first / b.step) ** gb * first / (a.step * b.step)
    return float((ga + 1) * (gb + 1) / (ga + gb + 1) * shape)
