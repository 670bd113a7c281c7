"""Which noise levels training draws, and how much an error at each counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import SigmaSample, TrainingSchedule, Weighting

PredictionWeight = Literal["velocity", "clean", "clamped_clean"]


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """The distribution and the weights of the noise levels.

    Args:
        num_levels: size of the table.
        shift: flow shift of the table.
        weighting: ``"bell"`` or ``"uniform"``, see ``TrainingSchedule``.
        high_noise_bias: the index into the table (0 is pure noise) is ``num * r**bias`` with a
            uniform ``r``: 1 is uniform, 2 draws the noisier half of the table 71% of the time.
        prediction_weight: whose squared error counts. ``"velocity"``: that of ``u`` (paper);
            ``"clean"``: that of ``x0``, which is the former times sigma^2; ``"clamped_clean"``:
            that of ``x0`` times ``1 / max(sigma, sigma_floor)^2``, which is the first one except
            below the floor, where it falls to 0.
        sigma_floor: of ``"clamped_clean"``.

    Raises:
        UsageError: a value that makes no sense.
    """

    num_levels: int = 1000
    shift: float = 5.0
    weighting: Weighting = "bell"
    high_noise_bias: float = 1.0
    prediction_weight: PredictionWeight = "velocity"
    sigma_floor: float = 0.05

    def __post_init__(self) -> None:
        if self.high_noise_bias <= 0 or self.sigma_floor <= 0 or self.num_levels < 2:
            raise UsageError(
                "[noise]",
                expected="high_noise_bias and sigma_floor above 0, num_levels of 2 or more",
                got=f"{self.high_noise_bias}, {self.sigma_floor}, {self.num_levels}",
            )

    @cached_property
    def _schedule(self) -> TrainingSchedule:
        return TrainingSchedule(
            num_levels=self.num_levels, shift=self.shift, weighting=self.weighting
        )

    def draw(self, generators: Sequence[torch.Generator]) -> SigmaSample:
        """One level and its loss weight per sample, each from its own generator."""
        uniform = torch.stack(
            [torch.rand((), generator=g, dtype=torch.float64) for g in generators]
        )
        index = (uniform**self.high_noise_bias * self.num_levels).long()
        index = index.clamp(max=self.num_levels - 1)
        sigma = self._schedule.sigmas[index]
        weight = self._schedule.weights[index] * self.prediction_factor(sigma)
        return SigmaSample(sigma=sigma, weight=weight)

    def prediction_factor(self, sigma: Tensor) -> Tensor:
        """What the squared velocity error is multiplied with, by level."""
        if self.prediction_weight == "velocity":
            return torch.ones_like(sigma)
        if self.prediction_weight == "clean":
            return sigma.square()
        return (sigma / sigma.clamp(min=self.sigma_floor)).square()
