"""EMA with the power-function profile: exponents, running averages, synthesis afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqtex.training.ema import MAX_SIGMA_REL, PowerAverage, decay_at, profile_exponent
from seqtex.training.ema_synthesis import Profile, profile_curve, synthesis_weights
from seqtex_core.errors import UsageError


@given(sigma_rel=st.floats(0.01, MAX_SIGMA_REL))
def test_the_exponent_gives_the_width(sigma_rel: float) -> None:
    gamma = profile_exponent(sigma_rel)
    width = np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    assert width == pytest.approx(sigma_rel, rel=1e-9)


def test_published_exponents() -> None:
    # arXiv 2312.02696 names 6.94 for 10% and 16.97 for 5%
    assert profile_exponent(0.10) == pytest.approx(6.94, abs=0.005)
    assert profile_exponent(0.05) == pytest.approx(16.97, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29])
def test_widths_without_a_profile_are_refused(sigma_rel: float) -> None:
    with pytest.raises(UsageError, match="sigma_rel"):
        profile_exponent(sigma_rel)


def test_the_first_step_replaces_the_initial_weights() -> None:
    assert decay_at(1, profile_exponent(0.1)) == 0.0


def walk(steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, 5, generator=generator).cumsum(0)


def track(values: torch.Tensor, widths: tuple[float, ...]) -> dict[Profile, torch.Tensor]:
    """The averages after every tenth step."""
    parameter = torch.zeros(5)
    average = PowerAverage({"w": parameter}, widths)
    kept = {}
    for step, value in enumerate(values, start=1):
        parameter.copy_(value)
        average.update(step)
        if step % 10 == 0:
            for width in widths:
                profile = Profile(step=step, sigma_rel=width)
                kept[profile] = average.average(width)["w"].clone()
    return kept


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_the_running_average_is_the_sum_over_the_profile(sigma_rel: float) -> None:
    values = walk(200)
    last = track(values, (sigma_rel,))[Profile(step=200, sigma_rel=sigma_rel)]
    curve = profile_curve(Profile(step=200, sigma_rel=sigma_rel), 200)
    assert curve.sum() == pytest.approx(1.0)
    expected = torch.from_numpy(curve) @ values.double()
    # 200 fp32 roundings of numbers up to 30, each 6e-8 relative, in the worst case all one way
    torch.testing.assert_close(last.double(), expected, atol=200 * 30 * 6e-8, rtol=0)


def test_other_lengths_come_out_of_snapshots() -> None:
    values = walk(400)
    snapshots = track(values, (0.05, 0.1))
    profiles = list(snapshots)
    for wanted in (0.06, 0.075, 0.09, 0.12):
        mixture = synthesis_weights(profiles, Profile(step=400, sigma_rel=wanted))
        made = sum(
            weight * tensor.double()
            for weight, tensor in zip(mixture.weights, snapshots.values(), strict=True)
        )
        truth = track(values, (wanted,))[Profile(step=400, sigma_rel=wanted)].double()
        assert mixture.error < 0.02
        assert sum(mixture.weights) == pytest.approx(1.0, abs=0.01)
        # the profiles differ by `error` of their size; the walk spans about 60 around its mean
        spread = float(values.std()) * 3
        assert float((made - truth).abs().max()) < max(mixture.error, 0.002) * spread


def test_a_tracked_average_is_found_again_and_later_snapshots_are_not_used() -> None:
    profiles = [Profile(step=s, sigma_rel=w) for s in (100, 200, 300) for w in (0.05, 0.1)]
    mixture = synthesis_weights(profiles, Profile(step=200, sigma_rel=0.1))
    assert mixture.error < 1e-5
    assert mixture.weights[3] == pytest.approx(1.0, abs=1e-5)
    assert mixture.weights[4:] == (0.0, 0.0)
    with pytest.raises(UsageError, match="snapshots"):
        synthesis_weights(profiles, Profile(step=50, sigma_rel=0.1))


def test_an_average_that_is_not_tracked_is_refused() -> None:
    average = PowerAverage({"w": torch.zeros(1)}, (0.05, 0.1))
    with pytest.raises(UsageError, match="tracked"):
        average.average(0.07)
    with pytest.raises(UsageError, match="ema"):
        PowerAverage({}, (0.05, 0.05))
