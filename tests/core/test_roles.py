"""Frame states and plans: levels, training samples, what is computed and what is skipped."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import FramePlan
from seqtex_core.roles import (
    CONDITION,
    CONDITION_SIGMA,
    DENOISE,
    NONSENSE,
    FrameState,
    Role,
)

STATES = st.one_of(
    st.builds(
        FrameState,
        role=st.sampled_from([Role.CONDITION, Role.NONSENSE]),
        sigma=st.one_of(st.none(), st.floats(0.0, 1.0)),
    ),
    st.builds(FrameState, role=st.just(Role.DENOISE), lock=st.booleans()),
)


@st.composite
def plans(draw: st.DrawFn) -> FramePlan:
    views = draw(st.lists(STATES, min_size=1, max_size=4))
    texture = draw(st.lists(STATES, min_size=1, max_size=2))
    return FramePlan(name="any", groups={"views": (*views, DENOISE), "texture": tuple(texture)})


def clean_for(plan: FramePlan, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    sizes = {"views": 4, "texture": 8}
    return {
        group: torch.randn(batch, 3, len(states), sizes[group], sizes[group], generator=generator)
        for group, states in plan.groups.items()
    }


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_condition_sigma_is_index_15_of_the_shifted_table() -> None:
    assert pytest.approx(0.0707547, abs=5e-8) == CONDITION_SIGMA  # seven decimals are published


@pytest.mark.parametrize(
    ("role", "options"),
    [
        (Role.DENOISE, {"sigma": 0.5}),
        (Role.CONDITION, {"sigma": 1.5}),
        (Role.CONDITION, {"lock": True}),
        (Role.NONSENSE, {"lock": True}),
    ],
)
def test_states_that_make_no_sense_are_refused(role: Role, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        FrameState(role=role, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "groups", [{}, {"views": ()}, {"views": (CONDITION,)}, {"views": (NONSENSE, CONDITION)}]
)
def test_plans_without_work_are_refused(groups: dict[str, tuple[FrameState, ...]]) -> None:
    with pytest.raises(UsageError):
        FramePlan(name="empty", groups=groups)


@given(plan=plans())
@settings(max_examples=40, deadline=None)
def test_a_plan_survives_json(plan: FramePlan) -> None:
    assert FramePlan.from_config(json.loads(json.dumps(plan.to_config()))) == plan


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"groups": {"views": [{"role": "bogus"}]}}, {"groups": 3}]
)
def test_a_damaged_config_is_a_usage_error(change: dict[str, object]) -> None:
    config = FramePlan(name="x", groups={"views": (DENOISE,)}).to_config()
    with pytest.raises(UsageError):
        FramePlan.from_config({**config, **change})


@given(plan=plans(), sigma=st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_levels_follow_the_role_and_a_fixed_level_wins(plan: FramePlan, sigma: list[float]) -> None:
    levels = plan.sigmas(torch.tensor(sigma))
    for group, states in plan.groups.items():
        assert levels[group].shape == (len(sigma), len(states))
        for row, current in enumerate(sigma):
            for frame, state in enumerate(states):
                role_level = {
                    Role.DENOISE: current,
                    Role.CONDITION: plan.condition_sigma,
                    Role.NONSENSE: plan.nonsense_sigma,
                }[state.role]
                wanted = role_level if state.sigma is None else state.sigma
                assert levels[group][row, frame] == torch.tensor(wanted, dtype=torch.float32)


@given(plan=plans(), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_training_frames_have_the_content_of_their_role(plan: FramePlan, seed: int) -> None:
    clean = clean_for(plan)
    sigma = torch.tensor([0.3, 0.9])
    sample = plan.training_sample(clean, sigma, generator=torch.Generator().manual_seed(seed))
    for group in sample.latents:
        noise = sample.target[group] + clean[group]
        for frame, state in enumerate(plan.groups[group]):
            seen = sample.latents[group][:, :, frame]
            level = sample.sigmas[group][:, frame, None, None, None]
            x0, eps = clean[group][:, :, frame], noise[:, :, frame]
            wanted = eps if state.role is Role.NONSENSE else (1 - level) * x0 + level * eps
            # eps is rebuilt as (eps - x0) + x0: two roundings of numbers below 8
            torch.testing.assert_close(seen, wanted, rtol=0, atol=2e-6)
            weight = sample.frame_weights[group][:, frame]
            assert bool((weight == float(state.role is Role.DENOISE)).all())


@given(seed=st.integers(0, 1000), sigma=st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_clean_frames_receive_no_noise(seed: int, sigma: float) -> None:
    clean_view = FrameState(role=Role.CONDITION, sigma=0.0)
    plan = FramePlan(name="clean", groups={"views": (clean_view, DENOISE), "texture": (DENOISE,)})
    clean = clean_for(plan)
    generator = torch.Generator().manual_seed(seed)
    sample = plan.training_sample(clean, torch.full((2,), sigma), generator=generator)
    assert torch.equal(sample.latents["views"][:, :, 0], clean["views"][:, :, 0])
    assert bool((sample.sigmas["views"][:, 0] == 0).all())
    assert not torch.equal(sample.latents["views"][:, :, 1], clean["views"][:, :, 1])


def test_nonsense_frames_do_not_depend_on_their_content() -> None:
    plan = FramePlan(name="mixed", groups={"views": (DENOISE, NONSENSE)}, nonsense_sigma=0.5)
    clean = clean_for(plan)
    changed = {"views": clean["views"].clone()}
    changed["views"][:, :, 1] = 100.0
    first, second = (
        plan.training_sample(
            x, torch.tensor([0.5, 0.5]), generator=torch.Generator().manual_seed(1)
        )
        for x in (clean, changed)
    )
    assert torch.equal(first.latents["views"], second.latents["views"])
    assert bool((first.sigmas["views"][:, 1] == 0.5).all())


def test_skipped_groups_need_no_latents_and_draw_no_noise() -> None:
    plan = FramePlan(name="geo", groups={"views": (DENOISE,) * 2, "texture": (NONSENSE,)})
    clean = clean_for(plan)
    sigma = torch.tensor([0.2, 0.7])
    with_texture, without = (
        plan.training_sample(x, sigma, generator=torch.Generator().manual_seed(1))
        for x in (clean, {"views": clean["views"]})
    )
    assert set(without.latents) == {"views"} == set(with_texture.latents)
    assert torch.equal(with_texture.latents["views"], without.latents["views"])


def test_a_nonsense_group_is_kept_where_it_is_read() -> None:
    geo = FramePlan(name="geo", groups={"views": (DENOISE,), "texture": (NONSENSE,)})
    assert geo.required_groups() == ("views",)
    assert geo.required_streams() == {"mv"}
    # one joint stream: the views attend to the texture's tokens, leaving it out would change them
    assert geo.required_groups({"views": "mv", "texture": "mv"}) == ("views", "texture")
    uv_only = FramePlan(name="uv", groups={"views": (NONSENSE,), "texture": (DENOISE,)})
    assert uv_only.required_groups() == ("views", "texture")
    assert uv_only.required_streams() == {"mv", "uv"}
    maps = FramePlan(name="maps", groups={"texture": (DENOISE,), "roughness": (NONSENSE,)})
    assert len(maps.required_groups({"texture": "uv", "roughness": "uv"})) == 2
    unknown = FramePlan(name="new", groups={"views": (DENOISE,), "normal_map": (NONSENSE,)})
    assert unknown.required_groups() == ("views", "normal_map")


def test_unread_conditions_are_named() -> None:
    plan = FramePlan(name="t", groups={"views": (DENOISE,), "texture": (CONDITION,)})
    assert plan.unread_conditions() == ("texture",)
    assert plan.unread_conditions({"views": "mv", "texture": "mv"}) == ()
    assert plan.required_groups() == ("views", "texture")  # a condition is never dropped


def test_with_frame_changes_one_frame() -> None:
    plan = FramePlan(name="t", groups={"views": (DENOISE, DENOISE)})
    locked = plan.with_frame("views", 1, FrameState(role=Role.DENOISE, lock=True))
    assert locked.locked_frames("views") == (1,)
    assert plan.locked_frames("views") == ()
    with pytest.raises(UsageError, match="0 to 1"):
        plan.with_frame("views", 2, DENOISE)
    with pytest.raises(UsageError, match="texture"):
        plan.with_frame("texture", 0, DENOISE)


def test_a_batch_may_be_split_without_changing_a_sample() -> None:
    plan = FramePlan(name="img", groups={"views": (CONDITION, DENOISE), "texture": (DENOISE,)})
    clean = clean_for(plan, batch=3)
    sigma = torch.tensor([0.1, 0.5, 1.0])
    whole = plan.training_sample(clean, sigma, generator=seeded(1, 2, 3))
    for b in range(3):
        one = {group: x[b : b + 1] for group, x in clean.items()}
        part = plan.training_sample(one, sigma[b : b + 1], generator=seeded(b + 1))
        for group in whole.latents:
            # same draws; elementwise arithmetic may fuse differently at vector tails: 1 ulp of 8
            torch.testing.assert_close(
                part.latents[group][0], whole.latents[group][b], rtol=0, atol=1e-6
            )


def test_wrong_number_of_generators_is_refused() -> None:
    plan = FramePlan(name="img", groups={"views": (DENOISE,)})
    with pytest.raises(UsageError, match="2 samples"):
        plan.training_sample(clean_for(plan), torch.tensor([0.1, 0.5]), generator=seeded(1))


@pytest.mark.parametrize(
    "clean",
    [
        {},
        {"views": torch.zeros(2, 3, 3, 4, 4)},
        {"views": torch.zeros(1, 3, 2, 4, 4)},
        {"views": torch.zeros(2, 3, 2, 4, 4, dtype=torch.int64)},
    ],
)
def test_latents_that_do_not_fit_are_refused(clean: dict[str, torch.Tensor]) -> None:
    plan = FramePlan(name="img", groups={"views": (DENOISE, DENOISE)})
    with pytest.raises(UsageError, match="views"):
        plan.training_sample(clean, torch.tensor([0.1, 0.5]), generator=torch.Generator())
