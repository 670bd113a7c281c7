"""Samplers: how one group's latents move from one noise level to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from .errors import UsageError


class Sampler(Protocol):
    """Moves latents down a fixed list of noise levels; one instance per group and run."""

    def step(self, velocity: Tensor, latents: Tensor, index: int) -> Tensor:
        """Latents at level ``index + 1``.

        Args:
            velocity: predicted ``u = eps - x0`` at level ``index``, ``[B, C, F, H, W]``.
            latents: what the model saw at level ``index``, same shape.
            index: 0, 1, ... in order.
        """
        ...


SamplerFactory = Callable[[Sequence[float]], Sampler]
"""Makes a sampler for noise levels ``[steps + 1]`` that fall to 0."""


class EulerSampler:
    """First-order steps ``x + (sigma_next - sigma) u``; exact when the velocity is constant.

    Args:
        sigmas: noise levels ``[steps + 1]``, falling to 0.

    Raises:
        UsageError: a number of steps, or see :func:`check_sigmas`.
    """

    def __init__(self, sigmas: Tensor | Sequence[float]) -> None:
        levels = level_list(sigmas)
        check_sigmas(levels)
        self.sigmas = tuple(levels)

    def step(self, velocity: Tensor, latents: Tensor, index: int) -> Tensor:
        """Latents at level ``index + 1``; see :meth:`Sampler.step`.

        Raises:
            UsageError: no such step.
        """
        if not 0 <= index < len(self.sigmas) - 1:
            last = len(self.sigmas) - 2
            raise UsageError("step index", expected=f"0 to {last}", got=str(index))
        return latents + (self.sigmas[index + 1] - self.sigmas[index]) * velocity


def level_list(sigmas: Tensor | Iterable[float]) -> list[float]:
    """Noise levels as numbers.

    Raises:
        UsageError: a single number, such as a number of steps.
    """
    levels = sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas
    if not isinstance(levels, Iterable):
        raise UsageError(
            "sigmas",
            expected="noise levels [steps + 1]",
            got=repr(levels),
            remedy="Use inference_sigmas(steps).",
        )
    return [float(level) for level in levels]


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Refuse noise levels that a sampler cannot follow.

    Raises:
        UsageError: fewer than two levels, not strictly falling, or not from (0, 1] down to 0.
    """
    falling = all(high > low for high, low in pairwise(sigmas))
    if len(sigmas) < 2 or not falling or sigmas[0] > 1.0 or sigmas[-1] != 0.0:
        raise UsageError(
            "sigmas", expected="falling levels from at most 1 down to 0", got=str(list(sigmas))
        )
