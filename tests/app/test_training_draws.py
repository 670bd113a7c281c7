"""Noise levels, learning rates, tasks, and the independence of draws from processes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqtex.training.batches import BatchShape
from seqtex.training.encode import EncodedBatch
from seqtex.training.noise_levels import NoiseLevels
from seqtex.training.objective import make_noisy
from seqtex.training.randomness import draw_weighted, generator_for, generators_for
from seqtex.training.schedule import learning_rate
from seqtex.training.task_mix import TaskMix
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import velocity_to_clean
from seqtex_core.roles import Role


def test_learning_rate_rises_then_falls_to_the_ends() -> None:
    rates = [learning_rate(k, peak=2.0, total=101, warmup=10) for k in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)  # half way down
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert learning_rate(100, peak=2.0, total=101, warmup=0, final_ratio=0.1) == pytest.approx(0.2)


@given(step=st.integers(0, 10**6), purpose=st.sampled_from(["level", "noise", "views"]))
def test_draws_depend_on_seed_purpose_and_number_alone(step: int, purpose: str) -> None:
    def draw(seed: int, name: str, index: int) -> float:
        return float(torch.rand((), generator=generator_for(seed, name, index)))  # type: ignore[arg-type]

    value = draw(3, purpose, step)
    assert value == draw(3, purpose, step)
    assert value not in (draw(4, purpose, step), draw(3, "task", step), draw(3, purpose, step + 1))


def test_weighted_draws_meet_their_weights_and_never_take_zero() -> None:
    counts = Counter(draw_weighted([3, 0, 2], generator_for(0, "task", k)) for k in range(2000))
    assert counts[1] == 0
    # binomial: standard deviation of the share is sqrt(0.6 * 0.4 / 2000) = 0.011; five of them
    assert abs(counts[0] / 2000 - 0.6) < 0.055


@pytest.mark.parametrize(("bias", "noisier_half"), [(1.0, 0.5), (2.0, 0.5**0.5), (0.5, 0.25)])
def test_bias_moves_levels_as_documented(bias: float, noisier_half: float) -> None:
    levels = NoiseLevels(high_noise_bias=bias, shift=1.0, num_levels=100)
    sigma = levels.draw(generators_for(0, "level", range(2000))).sigma
    share = float((sigma > 0.5).float().mean())
    assert abs(share - noisier_half) < 0.056  # five standard deviations
    assert float(sigma.max()) <= 1.0
    assert float(sigma.min()) > 0.0


def test_prediction_weight_turns_the_velocity_error_into_that_of_the_clean_latents() -> None:
    sigma = torch.tensor([0.02, 0.05, 0.3, 1.0])
    truth, guess = torch.randn(2, 4, 3, 1, 2, 2).unbind(0)
    noisy = torch.randn_like(truth)
    clean = [velocity_to_clean(noisy, u, sigma) for u in (truth, guess)]
    velocity_error = (truth - guess).square().flatten(1).mean(1)
    clean_error = (clean[0] - clean[1]).square().flatten(1).mean(1)
    factor = NoiseLevels(prediction_weight="clean").prediction_factor(sigma)
    # both sides are sums of 12 fp32 squares of differences of numbers up to 10
    torch.testing.assert_close(factor * velocity_error, clean_error, rtol=1e-3, atol=1e-6)
    clamped = NoiseLevels(prediction_weight="clamped_clean").prediction_factor(sigma)
    expected = clean_error / sigma.clamp(min=0.05).square()
    torch.testing.assert_close(clamped * velocity_error, expected, rtol=1e-3, atol=1e-5)
    assert clamped.tolist()[1:] == [1.0, 1.0, 1.0]
    drawn = [
        NoiseLevels(prediction_weight=name).draw(generators_for(0, "level", range(9)))
        for name in ("velocity", "clean")
    ]
    assert torch.equal(drawn[0].weight * drawn[0].sigma.square(), drawn[1].weight)


@given(
    world=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2]),
    step=st.integers(0, 50),
)
def test_every_sample_of_a_step_is_used_once(world: int, micro: int, step: int) -> None:
    found: list[int] = []
    for rank in range(world):
        shape = BatchShape(batch_size=16, micro_batch=micro, rank=rank, world_size=world)
        for part in range(shape.accumulation):
            found += shape.indices(step, part)
    assert sorted(found) == list(range(16 * step, 16 * step + 16))


def test_tasks_and_views_follow_their_weights() -> None:
    mix = TaskMix(
        weights={"img2tex": 3, "geo2mv": 2, "mv2tex": 0}, num_views=4, views_given=(0.5, 0.5)
    )
    tasks = Counter(mix.task_of(step, seed=0) for step in range(1000))
    assert tasks["mv2tex"] == 0
    assert abs(tasks["img2tex"] / 1000 - 0.6) < 0.078  # five standard deviations
    given_views = Counter()
    counts = Counter()
    for index in range(1000):
        views = mix.plan("img2tex", index, seed=0).frames_with("views", Role.CONDITION)
        counts[len(views)] += 1
        given_views.update(views)
    assert set(counts) == {1, 2}
    assert abs(counts[1] / 1000 - 0.5) < 0.079
    total = sum(given_views.values())
    assert all(abs(given_views[view] / total - 0.25) < 0.057 for view in range(4))
    assert not mix.always_trains_uv()
    assert TaskMix(weights={"img2tex": 1, "geo2mv": 0}, num_views=4).always_trains_uv()


@pytest.mark.parametrize("weights", [{}, {"img2tex": 0}, {"img2tex": -1}, {"nonsense": 1}])
def test_impossible_mixes_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        TaskMix(weights=weights, num_views=4)


def test_a_split_batch_gets_the_same_noise_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = {
        "views": torch.randn(6, 3, 4, 2, 2, generator=generator),
        "texture": torch.randn(6, 3, 1, 4, 4, generator=generator),
    }
    mix = TaskMix(weights={"img2tex": 1}, num_views=4)
    levels = NoiseLevels()

    def noisy(rows: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        encoded = EncodedBatch(clean={n: x[rows] for n, x in clean.items()}, geometry={}, masks={})
        indices = [101 + row for row in rows]  # whose plans, in order, are no swaps of pairs
        plans = [mix.plan("img2tex", index, seed=1) for index in indices]
        made = make_noisy(encoded, plans, indices, levels, seed=1)
        return dict(made.sample.latents), made.levels.sigma

    whole, sigma = noisy([0, 1, 2, 3, 4, 5])
    for rows in ([0, 1, 2], [3, 4, 5], [5], [1, 4]):
        part, part_sigma = noisy(rows)
        assert torch.equal(part_sigma, sigma[rows])
        for name, latents in part.items():
            assert torch.equal(latents, whole[name][rows])
    assert len({float(s) for s in sigma}) > 1
