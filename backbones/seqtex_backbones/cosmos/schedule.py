"""Cosmos' noise levels, and their exact relation to rectified flow.

The pipelines add noise without shrinking the signal, ``x = d x0 + s eps``, with ``s`` from 80 down
and ``d = 1`` (Predict2) or ``d = 0.5`` (Predict1). The library's level is ``sigma = s / (s + d)``,
and ``x = (s + d) x_sigma``.

Predict2 and 2.5 (``"flow"``): the network is fed ``x / (1 + s) = x_sigma`` and the number ``sigma``
itself, and ``x0 = (1 - sigma) x - sigma * output``, so that the output is ``(x_sigma - x0) /
sigma = eps - x0``, the library's velocity.

Predict1 (``"edm"``): the network is fed ``x / sqrt(s^2 + d^2) = x_sigma / m``, with ``m =
sqrt((1 - sigma)^2 + sigma^2)``, and the number ``ln(s) / 4``; ``x0 = ((1 - sigma) / m) (x_sigma /
m) + (sigma / m) * output``, so that the output is ``x0`` along ``sigma / m`` less ``eps`` along
``(1 - sigma) / m``: the negative of what CogVideoX predicts.

In both, an Euler step in ``s`` is one in ``sigma``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seqtex_core.errors import UsageError

from ..cogvideox.schedule import to_vp, v_to_velocity

Objective = Literal["flow", "edm"]
OBJECTIVES: tuple[Objective, ...] = ("flow", "edm")

_RHO = 7.0
_NOISE_RANGE = (0.002, 80.0)  # of ``s`` that Predict1 was trained with


@dataclass(frozen=True, kw_only=True)
class CosmosSchedule:
    """What a model is fed and what it predicts, in the library's terms.

    Args:
        objective: ``"flow"`` for Predict2 and 2.5, ``"edm"`` for Predict1.

    Raises:
        UsageError: an unknown objective.
    """

    objective: Objective = "flow"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError("objective", expected=f"one of {OBJECTIVES}", got=repr(self.objective))

    @property
    def signal(self) -> float:
        """``d``: the size of clean latents beside noise of size ``s``."""
        return 1.0 if self.objective == "flow" else 0.5

    def condition(self, sigma: Tensor) -> Tensor:
        """The number that the network is told, fp32; beyond its range, that at the end of it."""
        level = sigma.float()
        if self.objective == "flow":
            return level
        noise = self.signal * level / (1.0 - level)
        return 0.25 * noise.clamp(*_NOISE_RANGE).log()

    def network_input(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """What the network is fed for ``x_sigma [B, C, F, H, W]`` with levels ``[B, F]``."""
        return latents if self.objective == "flow" else to_vp(latents, sigma)

    def to_velocity(self, output: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """``u = eps - x0`` from what the network predicts."""
        return output if self.objective == "flow" else v_to_velocity(-output, latents, sigma)

    def native_sigmas(
        self, steps: int, *, noise_max: float = 80.0, noise_min: float = 0.002
    ) -> tuple[float, ...]:
        """The levels of the model's own sampler, from its highest down, then 0.

        Args:
            steps: sampling steps.
            noise_max: highest ``s``: 80, or 200 for Predict2.5.
            noise_min: lowest ``s``: 0.002, or 0.01.

        Returns:
            ``steps + 1`` levels.

        Raises:
            UsageError: fewer than two steps, or noise that does not fall.
        """
        if not isinstance(steps, int) or steps < 2:
            raise UsageError("steps", expected="a whole number of at least 2", got=repr(steps))
        if not noise_max > noise_min > 0:
            raise UsageError(
                "noise", expected="noise_max > noise_min > 0", got=f"{noise_max}, {noise_min}"
            )
        ends = torch.tensor([noise_max, noise_min], dtype=torch.float64) ** (1 / _RHO)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        noise = (ends[0] + ramp * (ends[1] - ends[0])) ** _RHO
        return (*(noise / (noise + self.signal)).tolist(), 0.0)
