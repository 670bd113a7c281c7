"""Samplers: how one group's latents move from one noise level to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


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
        sigmas: noise levels ``[steps + 1]``, last 0.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = tuple(sigmas)

    def step(self, velocity: Tensor, latents: Tensor, index: int) -> Tensor:
        """Latents at level ``index + 1``; see :meth:`Sampler.step`."""
        return latents + (self.sigmas[index + 1] - self.sigmas[index]) * velocity
