"""Noise levels, weights, conversions and the loss of rectified flow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import (
    TrainingSchedule,
    add_noise,
    bell_weights,
    clean_to_velocity,
    flow_matching_loss,
    inference_sigmas,
    model_timesteps,
    shift_sigmas,
    velocity_to_clean,
    velocity_to_noise,
)
from seqtex_core.frame_plan import FramePlan, NoisySample
from seqtex_core.roles import CONDITION, CONDITION_SIGMA, DENOISE, NONSENSE

LEVELS = st.floats(0.0, 1.0)
SHIFTS = st.floats(0.2, 16.0)


@given(sigma=LEVELS, first=SHIFTS, second=SHIFTS)
def test_shifts_compose_and_invert(sigma: float, first: float, second: float) -> None:
    x = torch.tensor(sigma, dtype=torch.float64)
    twice = shift_sigmas(shift_sigmas(x, first), second)
    # float64 rounding, amplified by at most the product of the shifts
    torch.testing.assert_close(twice, shift_sigmas(x, first * second), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        shift_sigmas(shift_sigmas(x, first), 1 / first), x, rtol=1e-12, atol=1e-12
    )


@given(shift=SHIFTS, steps=st.integers(1, 60))
def test_inference_levels_fall_from_one_to_zero(shift: float, steps: int) -> None:
    sigmas = inference_sigmas(steps, shift)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert bool((sigmas[1:] < sigmas[:-1]).all())


def test_published_levels() -> None:
    # truncated 1000 sigma of 30 steps at shift 5; diffusers lowers the first level by 1e-6
    lowered = inference_sigmas(30, 5.0)[:-1] - torch.tensor([1e-6] + [0.0] * 29)
    times = (lowered * 1000).to(torch.int64)
    assert times[:3].tolist() == [999, 993, 985]
    assert times[-1] == 150
    trained = TrainingSchedule().sigmas
    assert trained[0] == 1
    assert trained[985].item() == pytest.approx(CONDITION_SIGMA, abs=6e-8)  # one ulp
    assert TrainingSchedule(shift=1.0).sigmas[-1].item() == pytest.approx(0.001, abs=1e-9)


def test_a_shift_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UsageError, match="shift"):
        inference_sigmas(10, 0.0)


def test_bell_weights_at_the_published_anchors() -> None:
    schedule = TrainingSchedule()
    weights = schedule.weights
    assert weights[0] == 0
    assert weights[-1].item() == pytest.approx(0.032, abs=5e-4)  # three decimals published
    assert weights.max().item() == pytest.approx(2.08, abs=5e-3)
    assert schedule.sigmas[weights.argmax()].item() == pytest.approx(0.5, abs=1e-3)  # table step
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(UsageError, match="several levels"):
        bell_weights(torch.tensor([0.5]))


def test_drawn_levels_are_uniform_over_the_table_and_carry_their_weight() -> None:
    schedule = TrainingSchedule(num_levels=10)
    drawn = schedule.sample_sigmas(5000, generator=torch.Generator().manual_seed(0))
    index = (drawn.sigma[:, None] == schedule.sigmas).double().argmax(dim=1)
    counts = torch.bincount(index, minlength=10)
    # binomial deviation sqrt(5000 * .1 * .9) = 21: five of them
    assert int((counts - 500).abs().max()) < 106
    assert torch.equal(drawn.weight, schedule.weights[index])
    uniform = TrainingSchedule(weighting="uniform").sample_sigmas(4, generator=torch.Generator())
    assert torch.equal(uniform.weight, torch.ones(4))


def test_drawn_levels_do_not_depend_on_the_batch() -> None:
    schedule = TrainingSchedule()
    seeds = (5, 6, 7)
    whole = schedule.sample_sigmas(
        3, generator=[torch.Generator().manual_seed(seed) for seed in seeds]
    )
    parts = [
        schedule.sample_sigmas(1, generator=[torch.Generator().manual_seed(seed)]).sigma
        for seed in seeds
    ]
    assert torch.equal(whole.sigma, torch.cat(parts))
    assert len(set(whole.sigma.tolist())) > 1


@given(sigma=st.floats(1e-3, 1.0), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_conversions_are_inverse(sigma: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 2, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    levels = torch.full((2, 2), sigma, dtype=torch.float64)
    levels[:, 0] = 0.25
    x, u = add_noise(clean, noise, levels), noise - clean
    # float64 rounding; division by sigma >= 1e-3 costs three digits
    torch.testing.assert_close(velocity_to_clean(x, u, levels), clean, rtol=0, atol=1e-13)
    torch.testing.assert_close(velocity_to_noise(x, u, levels), noise, rtol=0, atol=1e-13)
    torch.testing.assert_close(clean_to_velocity(x, clean, levels), u, rtol=0, atol=1e-11)


def test_the_ends_are_exact() -> None:
    clean, noise = torch.randn(2, 1, 3, 2, 4, 4)
    assert torch.equal(add_noise(clean, noise, 0.0), clean)
    assert torch.equal(add_noise(clean, noise, 1.0), noise)


def test_clean_prediction_at_no_noise_stays_finite() -> None:
    clean = torch.randn(1, 3, 2, 4, 4)
    for sigma in (torch.zeros(1), 0.0):
        velocity = clean_to_velocity(clean + 0.01, clean, sigma, min_sigma=0.05)
        # 0.01 / 0.05, error of the float32 difference of numbers near 4 divided by 0.05
        torch.testing.assert_close(velocity, torch.full_like(clean, 0.2), rtol=0, atol=1e-5)


def test_levels_of_another_shape_are_refused() -> None:
    clean = torch.randn(1, 3, 2, 4, 4)
    with pytest.raises(UsageError, match=r"\[B, F\]"):
        add_noise(clean, clean, torch.zeros(1, 3, 2))


def make_sample(batch: int = 3) -> tuple[FramePlan, NoisySample, dict[str, torch.Tensor]]:
    plan = FramePlan(
        name="x", groups={"views": (CONDITION, DENOISE, NONSENSE, DENOISE), "texture": (DENOISE,)}
    )
    generator = torch.Generator().manual_seed(3)
    clean = {
        "views": torch.randn(batch, 2, 4, 4, 4, generator=generator),
        "texture": torch.randn(batch, 2, 1, 8, 8, generator=generator),
    }
    sample = plan.training_sample(clean, torch.linspace(0.1, 0.9, batch), generator=generator)
    wrong = {
        group: x + torch.randn(x.shape, generator=generator) for group, x in sample.target.items()
    }
    return plan, sample, wrong


def test_loss_is_the_mean_over_denoised_elements_and_the_sum_of_groups() -> None:
    _, sample, wrong = make_sample()
    loss = flow_matching_loss(wrong, sample)
    views = (wrong["views"] - sample.target["views"])[:, :, [1, 3]].square().mean()
    texture = (wrong["texture"] - sample.target["texture"]).square().mean()
    # means of a hundred float32 numbers near 1, summed in another order
    torch.testing.assert_close(loss.groups["views"], views, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.groups["texture"], texture, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.total, views + texture, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss.per_sample.mean(), loss.total, rtol=1e-6, atol=0)
    assert flow_matching_loss(sample.target, sample).total == 0


def test_condition_and_nonsense_frames_have_no_gradient() -> None:
    _, sample, wrong = make_sample()
    velocity = {group: x.clone().requires_grad_() for group, x in wrong.items()}
    flow_matching_loss(velocity, sample).total.backward()
    moved = velocity["views"].grad
    assert moved is not None
    assert bool((moved[:, :, [0, 2]] == 0).all())
    assert bool((moved[:, :, [1, 3]] != 0).all())


def test_sample_weights_and_batch_parts() -> None:
    _, sample, wrong = make_sample()
    weight = torch.tensor([0.0, 1.0, 2.0])
    loss = flow_matching_loss(wrong, sample, weight=weight)
    torch.testing.assert_close(loss.total, (weight * loss.per_sample).mean(), rtol=1e-6, atol=0)
    parts = []
    for b in range(3):
        part = {
            name: {g: x[b : b + 1] for g, x in getattr(sample, name).items()}
            for name in ("latents", "sigmas", "target", "frame_weights")
        }
        one = {group: x[b : b + 1] for group, x in wrong.items()}
        parts.append(
            flow_matching_loss(one, replace(sample, **part), weight=weight[b : b + 1]).total
        )
    torch.testing.assert_close(torch.stack(parts).mean(), loss.total, rtol=1e-6, atol=0)


def test_masks_weigh_elements_and_empty_masks_count_as_zero() -> None:
    _, sample, wrong = make_sample()
    mask = torch.zeros(3, 1, 1, 8, 8)
    mask[:, :, :, :4] = 10.0
    mask[2] = 0.0
    loss = flow_matching_loss(wrong, sample, masks={"texture": mask})
    error = (wrong["texture"] - sample.target["texture"]).square()[..., :4, :].mean((1, 2, 3, 4))
    wanted = error[:2].sum() / 3
    torch.testing.assert_close(loss.groups["texture"], wanted, rtol=1e-6, atol=0)
    unmasked = flow_matching_loss(wrong, sample)
    assert torch.equal(loss.groups["views"], unmasked.groups["views"])


def test_missing_or_misshapen_predictions_are_refused() -> None:
    _, sample, wrong = make_sample()
    with pytest.raises(UsageError, match="nothing"):
        flow_matching_loss({"views": wrong["views"]}, sample)
    with pytest.raises(UsageError, match="shape"):
        flow_matching_loss({**wrong, "texture": wrong["views"]}, sample)


def test_whole_timesteps_survive_the_way_through_levels() -> None:
    whole = torch.arange(1001, dtype=torch.float32)
    levels = (whole.double() / 1000).float()
    assert not torch.equal(1000 * levels, whole)
    assert torch.equal(model_timesteps(levels), whole)
    drawn = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    # other levels are left alone: a band of 2^-23 about 500 meets one draw in 10 000 on average
    assert int((model_timesteps(drawn) != 1000 * drawn).sum()) < 10
