"""CogVideoX's schedule against diffusers, and its exact relation to rectified flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqtex_backbones.cogvideox.schedule import VPSchedule, to_vp, v_to_velocity
from seqtex_core.errors import UsageError
from seqtex_core.roles import CONDITION_SIGMA
from seqtex_core.samplers import EulerSampler

SHIFTS = (1.0, 3.0)


def scheduler(snr_shift: float) -> Any:
    from diffusers import CogVideoXDDIMScheduler

    return CogVideoXDDIMScheduler(
        snr_shift_scale=snr_shift, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_table_is_that_of_diffusers(snr_shift: float) -> None:
    ours = VPSchedule(snr_shift=snr_shift).alphas_cumprod
    theirs = scheduler(snr_shift).alphas_cumprod.double()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)  # fp64, 1000 factors
    assert float(ours[-1]) == 0.0


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_every_whole_timestep_comes_back_from_its_level(snr_shift: float) -> None:
    schedule = VPSchedule(snr_shift=snr_shift)
    sigmas = schedule.sigmas
    assert bool((sigmas.diff() > 0).all())
    assert float(sigmas[-1]) == 1.0
    whole = torch.arange(1000.0)
    assert torch.equal(schedule.timesteps(sigmas), whole)
    assert torch.equal(schedule.timesteps(sigmas.float()), whole)


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_timesteps_between_entries_are_interpolated(snr_shift: float) -> None:
    schedule = VPSchedule(snr_shift=snr_shift)
    levels = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    wanted = np.interp(levels.double(), schedule.sigmas, np.arange(1000))
    # one ulp of fp32 below 1000, and what is taken for a whole timestep (at most 5e-4 away)
    off = np.abs(schedule.timesteps(levels).double().numpy() - wanted)
    assert off.max() <= 5e-4
    assert np.mean(off > 2**-14) <= 0.01


def timesteps_in_fp64(schedule: VPSchedule, sigma: Tensor) -> Tensor:
    """The definition: linear between entries, whole where fp32 cannot tell the level from one's."""
    table, level = schedule.sigmas, sigma.double()
    above = torch.searchsorted(table, level).clamp(1, 999)
    low, high = table[above - 1], table[above]
    timestep = above - 1 + ((level - low) / (high - low)).clamp(0.0, 1.0)
    whole = timestep.round()
    is_whole = (timestep - whole).abs() <= 2.0**-23 * level / (high - low)
    return torch.where(is_whole, whole, timestep)


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_steps_look_up_in_fp32_what_fp64_gives(
    snr_shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = VPSchedule(snr_shift=snr_shift)
    levels = torch.rand(200, 100, generator=torch.Generator().manual_seed(1))
    levels[0] = schedule.sigmas[::10].float().nextafter(torch.tensor(2.0))
    levels[1, :2] = torch.tensor([0.0, 1.0])
    wanted = timesteps_in_fp64(schedule, levels)
    schedule.timesteps(levels)  # the tables are made once

    def refuse(*args: Any) -> None:
        raise AssertionError("fp64 in a step")

    monkeypatch.setattr(Tensor, "double", refuse)
    got = schedule.timesteps(levels)
    monkeypatch.undo()
    assert got.dtype == torch.float32
    # the sum rounds once (2^-15 below 1024), the part before a few times 2^-24
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2**-15 + 2**-21)


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_timesteps_rise_with_the_level_and_stop_at_the_ends(snr_shift: float) -> None:
    schedule = VPSchedule(snr_shift=snr_shift)
    levels = torch.linspace(0, 1, 4001).view(1, -1)
    timesteps = schedule.timesteps(levels)
    assert timesteps.shape == levels.shape
    assert bool((timesteps.diff() >= 0).all())
    assert (float(timesteps[0, 0]), float(timesteps[0, -1])) == (0.0, 999.0)
    below = levels[levels < schedule.sigmas[0]]
    assert not schedule.timesteps(below).any()


@pytest.mark.parametrize(
    ("snr_shift", "sigma", "timestep"),
    [(1.0, CONDITION_SIGMA, 5.32), (1.0, 0.5, 336.8), (1.0, 0.8, 693.4), (3.0, 0.5, 194.5)],
)
def test_known_levels(snr_shift: float, sigma: float, timestep: float) -> None:
    got = VPSchedule(snr_shift=snr_shift).timesteps(torch.tensor([sigma]))
    assert float(got) == pytest.approx(timestep, abs=0.06)


def test_native_levels_are_those_of_the_models_own_sampler() -> None:
    """For every number of steps; for 62 of them, such as 61, diffusers appends a timestep of -1."""
    schedule, theirs = VPSchedule(), scheduler(1.0)
    longer = 0
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        sigmas = schedule.native_sigmas(steps)
        assert sigmas[-1] == 0.0
        assert sigmas[:-1] == schedule.sigmas[theirs.timesteps[:steps]].tolist(), steps
        longer += len(theirs.timesteps) > steps
        assert theirs.timesteps[steps:].tolist() in ([], [-1])
    assert longer == 62
    with pytest.raises(UsageError, match="steps"):
        schedule.native_sigmas(0)


@pytest.mark.parametrize(("steps", "beside"), [(25, 0), (30, 10)])
def test_euler_on_native_levels_is_ddim_of_diffusers_where_steps_divide_1000(
    steps: int, beside: int
) -> None:
    from diffusers import CogVideoXDDIMScheduler

    theirs = CogVideoXDDIMScheduler(**{**scheduler(1.0).config, "prediction_type": "v_prediction"})
    theirs.set_timesteps(steps)
    clean, noise = torch.randn(2, 1, 2, 1, 2, 2).double()
    sigmas = VPSchedule().native_sigmas(steps)
    ours = EulerSampler(sigmas)
    others = 0
    for index, timestep in enumerate(theirs.timesteps):
        x = (1 - sigmas[index]) * clean + sigmas[index] * noise
        level, after = torch.tensor([sigmas[index : index + 2]], dtype=torch.float64).split(1, 1)
        a = theirs.alphas_cumprod[timestep].sqrt()
        v = a * noise - (1 - a.square()).sqrt() * clean
        got = to_vp(ours.step(noise - clean, x, index), after)
        want = theirs.step(v, timestep, to_vp(x, level), return_dict=False)[0]
        others += not torch.allclose(got, want, rtol=0, atol=1e-9)  # fp64
    assert others == beside


def test_a_schedule_needs_a_positive_shift() -> None:
    with pytest.raises(UsageError, match="snr_shift"):
        VPSchedule(snr_shift=0.0)


@given(sigma=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_conversion_is_exact(sigma: float, seed: int) -> None:
    """In fp64, from the definitions of both parametrisations."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, 2, 1, 2, 2, generator=generator).double()
    norm = ((1 - sigma) ** 2 + sigma**2) ** 0.5
    a, s = (1 - sigma) / norm, sigma / norm
    level = torch.full((1, 1), sigma, dtype=torch.float64)
    noisy = (1 - sigma) * clean + sigma * noise
    torch.testing.assert_close(to_vp(noisy, level), a * clean + s * noise, rtol=0, atol=1e-14)
    velocity = v_to_velocity(a * noise - s * clean, noisy, level)
    torch.testing.assert_close(velocity, noise - clean, rtol=0, atol=1e-13)


def test_conversions_keep_the_dtype() -> None:
    latents, sigma = torch.randn(1, 2, 3, 4, 4).bfloat16(), torch.rand(1, 3)
    assert to_vp(latents, sigma).dtype == torch.bfloat16
    assert v_to_velocity(latents, latents, sigma).dtype == torch.bfloat16
