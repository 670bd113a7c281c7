"""The sampling loop: roles kept at every step, known content untouched, interruption, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_models import (
    LOCKED,
    TEXTURE_SHAPE,
    VIEWS_SHAPE,
    Groups,
    PerfectModel,
    clean_latents,
    exactly_informed,
    known,
    mixing_model,
    seed,
)
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_plan import FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.roles import CONDITION, CONDITION_SIGMA, DENOISE, NONSENSE, FrameState, Role
from seqtex_core.sampling import sample
from seqtex_core.tasks import geo2mv, img2tex, mv2tex


@pytest.mark.parametrize("plan", [img2tex(condition_views=(1, 3)), mv2tex(), geo2mv()])
def test_a_perfect_model_recovers_the_clean_latents(plan: FramePlan) -> None:
    clean = clean_latents()
    out = sample(
        PerfectModel(clean), plan, known(clean), sigmas=inference_sigmas(30), generator=seed()
    )
    assert set(out) == set(plan.required_groups())
    for group, x in out.items():
        # the last step is x - s (x - x0) / s: rounding of numbers below 4, 2.4e-7 as published
        torch.testing.assert_close(x, clean[group], rtol=0, atol=2.4e-7)


@st.composite
def plans(draw: st.DrawFn) -> FramePlan:
    state = st.sampled_from(
        [DENOISE, CONDITION, NONSENSE, LOCKED, FrameState(role=Role.CONDITION, sigma=0.0)]
    )
    views = draw(st.lists(state, min_size=4, max_size=4))
    return FramePlan(name="any", groups={"views": tuple(views), "texture": (DENOISE,)})


@given(plan=plans(), value=st.integers(0, 100), fresh=st.booleans())
@settings(max_examples=30, deadline=None)
def test_conditions_and_locks_come_out_bit_identical(
    plan: FramePlan, value: int, fresh: bool
) -> None:
    plan = FramePlan(name="any", groups=plan.groups, fresh_condition_noise=fresh)
    clean = clean_latents()
    mask = torch.rand(2, 1, 1, 8, 8, generator=seed(value)) < 0.5
    content = known(clean, lock_masks={"texture": mask})
    out = sample(mixing_model, plan, content, sigmas=[1.0, 0.6, 0.2, 0.0], generator=seed(value))
    for frame, state in enumerate(plan.groups["views"]):
        same = torch.equal(out["views"][:, :, frame], clean["views"][:, :, frame])
        assert same == (state.role is Role.CONDITION or state.lock)
    kept = mask.expand(TEXTURE_SHAPE)
    assert torch.equal(out["texture"][kept], clean["texture"][kept])
    assert not bool((out["texture"][~kept] == clean["texture"][~kept]).any())


def test_locked_content_is_shown_at_the_current_level_with_its_start_noise() -> None:
    clean = clean_latents()
    plan = FramePlan(name="edit", groups={"views": (LOCKED, DENOISE, DENOISE, DENOISE)})
    model = PerfectModel({"views": torch.zeros(VIEWS_SHAPE)})
    content = KnownLatents(clean={"views": clean["views"]})
    levels = [1.0, 0.7, 0.4, 0.0]
    sample(model, plan, content, sigmas=levels, generator=seed())
    noise = model.seen[0]["views"][:, :, 0]  # level 1 is pure noise
    for shown, sigma in zip(model.seen, levels, strict=False):
        wanted = (1 - sigma) * clean["views"][:, :, 0] + sigma * noise
        assert torch.equal(shown["views"][:, :, 0], wanted)


@pytest.mark.parametrize("fresh", [True, False])
def test_conditions_are_renoised_at_their_level_every_step(fresh: bool) -> None:
    plan = FramePlan(
        name="img", groups=img2tex().groups, condition_sigma=0.1, fresh_condition_noise=fresh
    )
    clean = {"views": torch.randn(1, 16, 4, 32, 32), "texture": torch.randn(1, 16, 1, 32, 32)}
    model = PerfectModel(clean)
    content = KnownLatents(clean={"views": clean["views"]}, shapes={"texture": (1, 16, 1, 32, 32)})
    sample(model, plan, content, sigmas=inference_sigmas(4), generator=seed())
    noises = []
    for shown, levels in zip(model.seen, model.sigmas, strict=True):
        assert levels["views"][0, 0] == torch.tensor(0.1)
        assert bool((levels["views"][0, 1:] == levels["texture"][0, 0]).all())
        noises.append((shown["views"][:, :, 0] - 0.9 * clean["views"][:, :, 0]) / 0.1)
        # deviation of the deviation of 16384 normal numbers: 1 / sqrt(2 n) = 0.0055; five of them
        assert noises[-1].std().item() == pytest.approx(1.0, abs=0.028)
    changed = (noises[0] - noises[1]).abs().max().item()
    assert changed > 1.0 if fresh else changed < 1e-5  # 1e-5: float32 rounding divided by 0.1


def test_clean_conditions_are_shown_without_noise() -> None:
    clean = clean_latents()
    plan = img2tex().with_frame("views", 0, FrameState(role=Role.CONDITION, sigma=0.0))
    model = PerfectModel(clean)
    sample(model, plan, known(clean), sigmas=inference_sigmas(3), generator=seed())
    for shown in model.seen:
        assert torch.equal(shown["views"][:, :, 0], clean["views"][:, :, 0])


def test_geo2mv_never_computes_or_reads_the_texture() -> None:
    def result(texture: Tensor | None) -> Tensor:
        clean = {} if texture is None else {"texture": texture}

        def model(latents: Groups, sigmas: Groups) -> dict[str, Tensor]:
            assert set(latents) == set(sigmas) == {"views"}
            return mixing_model(latents, sigmas)

        out = sample(model, geo2mv(), known(clean), sigmas=inference_sigmas(4), generator=seed())
        assert set(out) == {"views"}
        return out["views"]

    first = result(None)
    assert torch.equal(first, result(torch.zeros(TEXTURE_SHAPE)))
    assert torch.equal(first, result(torch.full(TEXTURE_SHAPE, 50.0)))


def test_nonsense_that_is_read_is_pure_noise_whatever_its_content() -> None:
    streams: dict[str, object] = {"views": "mv", "texture": "mv"}
    shown = []
    for value in (0.0, 50.0):
        model = PerfectModel({"views": torch.zeros(VIEWS_SHAPE), "texture": torch.zeros(1)})
        sample(
            model,
            geo2mv(),
            known({"texture": torch.full(TEXTURE_SHAPE, value)}),
            sigmas=inference_sigmas(2),
            generator=seed(),
            streams=streams,  # type: ignore[arg-type]
        )
        assert all(bool((levels["texture"] == 1).all()) for levels in model.sigmas)
        shown.append(model.seen[1]["texture"])
    assert torch.equal(shown[0], shown[1])


def test_same_seed_same_result_other_seed_other_result() -> None:
    clean = clean_latents()

    def run(value: int) -> Tensor:
        return sample(
            mixing_model, img2tex(), known(clean), sigmas=inference_sigmas(5), generator=seed(value)
        )["texture"]

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_a_batch_may_be_split_without_changing_a_sample() -> None:
    clean = clean_latents(batch=3)

    def run(rows: slice, seeds: list[int]) -> dict[str, Tensor]:
        content = KnownLatents(clean={group: x[rows] for group, x in clean.items()})
        generators = [seed(value) for value in seeds]
        return sample(
            PerfectModel({"views": torch.tensor(0.5), "texture": torch.tensor(0.5)}),
            img2tex(),
            content,
            sigmas=[1.0, 0.5, 0.25, 0.0],
            generator=generators,
        )

    whole, first, rest = run(slice(3), [1, 2, 3]), run(slice(1), [1]), run(slice(1, 3), [2, 3])
    for group, x in whole.items():
        # equal draws; elementwise arithmetic may fuse differently at vector tails
        torch.testing.assert_close(torch.cat([first[group], rest[group]]), x, rtol=0, atol=1e-6)


def test_start_below_one_mixes_the_clean_latents() -> None:
    clean = clean_latents()
    model = PerfectModel(clean)
    sample(model, geo2mv(), known(clean), sigmas=[0.5, 0.0], generator=seed())
    pure = PerfectModel(clean)
    sample(pure, geo2mv(), known(clean), sigmas=[1.0, 0.0], generator=seed())
    wanted = 0.5 * clean["views"] + 0.5 * pure.seen[0]["views"]
    assert torch.equal(model.seen[0]["views"], wanted)
    with pytest.raises(UsageError, match="below sigma 1"):
        sample(model, geo2mv(), known(), sigmas=[0.5, 0.0], generator=seed())


def test_whole_timesteps_are_told_and_the_solver_stays_exact() -> None:
    clean = clean_latents()
    model = PerfectModel(clean)
    levels = inference_sigmas(30)
    plan = replace(img2tex(), whole_timesteps=True)
    out = sample(
        exactly_informed(model, levels), plan, known(clean), sigmas=levels, generator=seed()
    )
    torch.testing.assert_close(out["texture"], clean["texture"], rtol=0, atol=2.4e-7)
    told: list[float] = []

    def listen(latents: Groups, sigmas: Groups) -> Mapping[str, Tensor]:
        assert sigmas["views"][0, 0] == torch.tensor(CONDITION_SIGMA)
        assert sigmas["views"][0, 1] == sigmas["texture"][0, 0]
        told.append(1000 * sigmas["texture"][0, 0].item())
        return dict(latents)

    sample(listen, plan, known(clean), sigmas=levels, generator=seed())
    # t / 1000 in float32, times 1000: off by at most 6e-8 of 1000
    assert told[:3] + told[-1:] == pytest.approx([999, 993, 985, 150], abs=6e-5)
