"""Euler steps: exact on straight paths, first order on curved ones."""

from __future__ import annotations

import torch

from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.samplers import EulerSampler


def test_a_straight_path_is_followed_exactly() -> None:
    clean, noise = torch.randn(2, 1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = inference_sigmas(30).tolist()
    sampler, x = EulerSampler(sigmas), noise
    for index in range(30):
        x = sampler.step(noise - clean, x, index)
    # 30 additions of numbers below 4: at most 30 half ulps (2.4e-7), a random walk in practice
    torch.testing.assert_close(x, clean, rtol=0, atol=30 * 2.4e-7)


def gaussian_error(steps: int) -> float:
    """Error of sampling x0 ~ N(0, 0.5^2), whose velocity and path are known in closed form."""
    spread = 0.25
    sigmas = inference_sigmas(steps, 1.0).tolist()
    sampler = EulerSampler(sigmas)
    x = start = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    for index, sigma in enumerate(sigmas[:-1]):
        variance = (1 - sigma) ** 2 * spread + sigma**2
        x = sampler.step((sigma - (1 - sigma) * spread) / variance * x, x, index)
    return abs(float(x - 0.5 * start))


def test_euler_is_of_first_order() -> None:
    ratio = gaussian_error(64) / gaussian_error(128)
    assert 1.9 < ratio < 2.1  # halving the step halves the error, up to the second-order term
