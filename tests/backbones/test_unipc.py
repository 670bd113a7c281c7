"""UniPC on our own noise levels, and our tables against those of diffusers."""

from __future__ import annotations

from collections.abc import Mapping

import diffusers
import pytest
import torch
from torch import Tensor

from seqtex_backbones.unipc import SAMPLERS, UniPCSampler, check_diffusers_version
from seqtex_core.errors import MissingDependencyError, UnsupportedError, UsageError
from seqtex_core.flow_matching import TrainingSchedule, inference_sigmas, whole_timestep
from seqtex_core.frame_run import KnownLatents
from seqtex_core.samplers import EulerSampler
from seqtex_core.sampling import sample
from seqtex_core.tasks import img2tex


@pytest.mark.parametrize("steps", [1, 4, 30, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_inference_levels_are_those_of_diffusers(steps: int, shift: float) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    # float32 storage of both, and the 1e-6 that diffusers takes off the first level
    torch.testing.assert_close(
        inference_sigmas(steps, shift).float(), scheduler.sigmas, rtol=0, atol=1.2e-6
    )
    assert torch.equal(inference_sigmas(steps, shift)[1:].float(), scheduler.sigmas[1:])


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_whole_timesteps_are_those_of_diffusers(shift: float) -> None:
    """All of them, where 1000 sigma is whole (667, of 30 steps at shift 1) and a bit off, too."""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    for steps in (*range(1, 101), 333, 500, 999, 1000):
        scheduler.set_timesteps(steps)
        told = [whole_timestep(sigma) for sigma in inference_sigmas(steps, shift).tolist()[:-1]]
        assert [round(1000 * level) for level in told] == scheduler.timesteps.tolist(), steps


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_training_levels_are_those_of_diffusers(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    # diffusers computes its table in float32: two roundings of numbers up to 1
    ours = TrainingSchedule(shift=shift).sigmas
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=0, atol=2.4e-7)


def test_the_sampler_works_with_the_levels_as_passed() -> None:
    sigmas = inference_sigmas(30, 5.0)
    taken = UniPCSampler(sigmas.tolist()).sigmas
    assert torch.equal(taken[1:], sigmas[1:].float())
    assert torch.equal(UniPCSampler(sigmas).sigmas, taken)
    with pytest.raises(UsageError, match="inference_sigmas"):
        UniPCSampler(30)  # type: ignore[arg-type]
    assert taken[0].item() == pytest.approx(1.0, abs=1.2e-6)


def test_levels_that_diffusers_would_change_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = diffusers.UniPCMultistepScheduler.set_timesteps

    def shifted(self: object, *args: object, sigmas: object, **options: object) -> None:
        original(self, *args, sigmas=5 * sigmas / (1 + 4 * sigmas), **options)

    monkeypatch.setattr(diffusers.UniPCMultistepScheduler, "set_timesteps", shifted)
    with pytest.raises(UnsupportedError, match="other levels"):
        UniPCSampler(inference_sigmas(30, 5.0).tolist())


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_a_perfect_velocity_recovers_the_clean_latents(steps: int, start: float) -> None:
    clean, noise = torch.randn(2, 1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = (inference_sigmas(steps) * start).tolist()
    sampler, x = UniPCSampler(sigmas), start * noise + (1 - start) * clean
    for index in range(steps):
        x = sampler.step(noise - clean, x, index)
    # 1e-6 off the first level times |u| < 6, and some ulps of numbers below 4
    torch.testing.assert_close(x, clean, rtol=0, atol=8e-6)


def gaussian_error(steps: int, sampler: EulerSampler | UniPCSampler, sigmas: list[float]) -> float:
    """Error of sampling x0 ~ N(0, 0.5^2), whose path is known in closed form."""
    spread = 0.25
    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    for index, sigma in enumerate(sigmas[:-1]):
        variance = (1 - sigma) ** 2 * spread + sigma**2
        x = sampler.step((sigma - (1 - sigma) * spread) / variance * x, x, index)
    return abs(float(x) - 0.5)


def test_unipc_is_of_second_order_on_a_curved_path() -> None:
    coarse, fine = inference_sigmas(30, 1.0).tolist(), inference_sigmas(60, 1.0).tolist()
    error = gaussian_error(30, UniPCSampler(coarse), coarse)
    # half the step: a quarter of the error; the first-order last step takes a little of that
    assert error / gaussian_error(60, UniPCSampler(fine), fine) > 3.5
    assert error < gaussian_error(30, EulerSampler(coarse), coarse) / 10


class PerfectModel:
    def __init__(self, clean: Mapping[str, Tensor]) -> None:
        self.clean = clean

    def __call__(
        self, latents: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {
            group: (x - self.clean[group]) / sigmas[group][:, None, :, None, None].clamp_min(1e-6)
            for group, x in latents.items()
        }


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_every_sampler_runs_a_plan_with_conditions_and_locks(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    clean = {
        "views": torch.randn(1, 4, 4, 8, 8, generator=generator),
        "texture": torch.randn(1, 4, 1, 16, 16, generator=generator),
    }
    mask = torch.rand(1, 1, 1, 16, 16, generator=generator) < 0.5
    out = sample(
        PerfectModel(clean),
        img2tex(condition_views=(1,)),
        KnownLatents(clean=clean, lock_masks={"texture": mask}),
        sigmas=inference_sigmas(30),
        generator=torch.Generator().manual_seed(2),
        sampler=SAMPLERS.get(name),
    )
    kept = mask.expand(1, 4, 1, 16, 16)
    assert torch.equal(out["views"][:, :, 1], clean["views"][:, :, 1])
    assert torch.equal(out["texture"][kept], clean["texture"][kept])
    for group, x in out.items():
        torch.testing.assert_close(x, clean[group], rtol=0, atol=8e-6)  # see the test above


def test_steps_out_of_order_are_refused() -> None:
    sampler = UniPCSampler([1.0, 0.5, 0.0])
    x = torch.zeros(1, 1, 1, 2, 2)
    with pytest.raises(UsageError, match="step index"):
        sampler.step(x, x, 1)
    sampler.step(x, x, 0)
    sampler.step(x, x, 1)
    with pytest.raises(UsageError, match="step index"):
        sampler.step(x, x, 2)


@pytest.mark.parametrize("version", ["0.36.0", "0.33.1"])
def test_an_old_diffusers_is_refused(version: str) -> None:
    with pytest.raises(MissingDependencyError, match=r"0\.37") as caught:
        check_diffusers_version(version)
    assert version in str(caught.value)


@pytest.mark.parametrize("version", ["0.37.0", "0.42.0.dev0", "1.0.0"])
def test_a_new_diffusers_is_accepted(version: str) -> None:
    check_diffusers_version(version)


def test_samplers_by_name() -> None:
    assert SAMPLERS.names() == ["euler", "unipc"]
    with pytest.raises(UsageError, match="unipc"):
        SAMPLERS.get("unipcs")
