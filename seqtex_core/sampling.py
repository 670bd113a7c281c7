"""The sampling loop: a plan, a model and a sampler make latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .checks import check_callable, check_mapping, check_type
from .errors import UsageError
from .flow_matching import velocity_to_clean
from .frame_plan import FramePlan
from .frame_run import FrameRun, KnownLatents, Latents, ModelInput
from .frames import Stream
from .noise import Generators
from .samplers import EulerSampler, SamplerFactory, level_list

PredictVelocity = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""``(latents {group: [B, C, F, H, W]}, sigmas {group: [B, F]}) -> velocity {group: ...}``."""


class StepSignal(Enum):
    """What a step callback may ask for."""

    STOP = "stop"


@dataclass(frozen=True, kw_only=True, eq=False)
class StepReport:
    """Where sampling stands after a step.

    Args:
        index: of the step just done, from 0.
        total: number of steps.
        sigma: noise level that the latents have reached.
        latents: current latents per group.
        run: the run, for :meth:`predicted_clean`.
        model_input: what the model saw.
        velocity: what it answered.
    """

    index: int
    total: int
    sigma: float
    latents: Mapping[str, Tensor]
    run: FrameRun
    model_input: ModelInput
    velocity: Mapping[str, Tensor]

    def predicted_clean(self) -> Latents:
        """Clean latents that the model expects, known content put in: for previews."""
        seen = self.model_input
        clean = {
            group: velocity_to_clean(
                seen.latents[group],
                self.velocity[group],
                self.run.exact_sigmas(group, self.index).to(latents.dtype),
            )
            if group in self.run.stepped_groups
            else latents
            for group, latents in self.latents.items()
        }
        return self.run.finish(clean)


StepCallback = Callable[[StepReport], StepSignal | None]
"""Called after every step; may raise, or return ``StepSignal.STOP``."""


@torch.no_grad()
def sample(
    predict_velocity: PredictVelocity,
    plan: FramePlan,
    known: KnownLatents,
    *,
    sigmas: Tensor | Sequence[float],
    generator: Generators,
    sampler: SamplerFactory = EulerSampler,
    callback: StepCallback | None = None,
    streams: Mapping[str, Stream] | None = None,
) -> Latents:
    """Latents of every required group, ``{group: [B, C, F, H, W]}``, known content untouched.

    The same seed gives the same result. Noise is drawn where the generator lives and moved, so a
    CPU generator makes it independent of the device; pass one generator per sample to make it
    independent of the batch as well. The loop itself reads nothing back from the device.

    Args:
        predict_velocity: the model; gets only the groups that must be computed.
        plan: roles of all frames.
        known: sizes, clean latents of known frames, lock masks, device.
        sigmas: noise levels ``[steps + 1]`` falling to 0, see :func:`inference_sigmas`. A first
            level below 1 starts from the clean latents (restyling).
        generator: one, or one per sample.
        sampler: class or function that makes a sampler from the levels; one per denoised group.
        callback: progress, previews, interruption. When it returns ``StepSignal.STOP``, the
            model's current prediction of the clean latents is returned.
        streams: see :meth:`FramePlan.required_groups`.

    Raises:
        UsageError: inputs that do not fit the plan, or a model answer that does not fit them.
    """
    levels = level_list(sigmas)
    check_callable(
        "sampler",
        sampler,
        expected="a class or function that makes one sampler from the levels",
        remedy="Give the class itself: every group gets a sampler of its own.",
    )
    run = plan.start(known, sigmas=levels, generator=generator, streams=streams)
    samplers = {group: sampler(levels) for group in run.stepped_groups}
    latents = run.initial_latents()
    total = len(levels) - 1
    for index in range(total):
        seen = run.prepare_step(latents, index)
        velocity = predict_velocity(seen.latents, seen.sigmas)
        latents = dict(seen.latents)
        for group, solver in samplers.items():
            answer = _answer(velocity, group, seen.latents[group])
            latents[group] = solver.step(answer, seen.latents[group], index)
        if callback is None:
            continue
        report = StepReport(
            index=index,
            total=total,
            sigma=levels[index + 1],
            latents=latents,
            run=run,
            model_input=seen,
            velocity=velocity,
        )
        if callback(report) is StepSignal.STOP:
            return report.predicted_clean()
    return run.finish(latents)


def _answer(velocity: Mapping[str, Tensor], group: str, latents: Tensor) -> Tensor:
    check_mapping("velocity", velocity)
    if group in velocity:
        check_type(f"velocity of {group!r}", velocity[group], Tensor)
    if group not in velocity or velocity[group].shape != latents.shape:
        raise UsageError(
            f"velocity of {group!r}",
            expected=f"shape {tuple(latents.shape)}",
            got=str(tuple(velocity[group].shape)) if group in velocity else "nothing",
        )
    return velocity[group].to(latents.dtype)
