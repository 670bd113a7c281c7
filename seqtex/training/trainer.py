"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seqtex_core.errors import ContractError, UsageError
from seqtex_core.frame_plan import DEFAULT_STREAMS
from seqtex_core.tasks import PROJECTION

from ..projection_frame import as_residual
from .batches import BatchStream, MicroBatch
from .checkpoints import TENSORS, read_record
from .logs import Say
from .objective import make_noisy
from .optimizer import clip_gradients, set_learning_rate
from .progress_meter import ProgressMeter
from .projection import with_projection
from .restart import restart_uv
from .run import Run
from .run_lock import writing_alone
from .schedule import learning_rate
from .stop_signal import StopSignal


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended.

    Args:
        step: optimizer steps done.
        finished: all of them; otherwise it was asked to stop and can be resumed.
        model: the exported model folder, or ``None`` if it stopped before.
    """

    step: int
    finished: bool
    model: Path | None


def train(run: Run, *, resume: bool, say: Say) -> TrainingResult:
    """Train to the end, or until asked to stop.

    Args:
        run: everything set up, see ``set_up_run``.
        resume: continue from the newest checkpoint, if there is one.
        say: prints a line; called in the first process only.

    Raises:
        UsageError: the folder has a run and ``resume`` is off, the run had other settings, or
            another process is at it.
        ContractError: the loss or its gradient is no longer finite.
    """
    with writing_alone(run.folder) if run.is_first else nullcontext():
        return _train(run, resume=resume, say=say)


def _train(run: Run, *, resume: bool, say: Say) -> TrainingResult:
    start = _resume(run, say) if resume else _refuse_old(run)
    step = start
    meter = ProgressMeter(run, from_step=start, say=say)
    with StopSignal() as stop:
        try:
            for step, task, losses in _steps(run, start):
                meter.step_done(step, task, losses)
                due = meter.due(step)
                asked = run.parallel.any(stop.requested)
                if due.snapshot:  # before the checkpoint: behind it, it would not be made again
                    run.save_snapshot(step)
                # clocks differ between processes: the first one's decides
                if run.parallel.any(due.checkpoint and run.is_first) or asked:
                    run.save_checkpoint(step)
                    meter.saved()
                if asked and step < run.config.total_steps:
                    say(f"stopped at step {step}; --resume continues")
                    return TrainingResult(step=step, finished=False, model=None)
                if due.preview:
                    run.export(step, say)
        finally:
            meter.close()
    model = run.export(step, say)
    return TrainingResult(step=step, finished=True, model=model)


def _steps(run: Run, step: int) -> Iterator[tuple[int, str, dict[str, float]]]:
    """Number of steps done, task and mean losses after every optimizer step."""
    stream = BatchStream(run.source, run.config, run.shape, run.mixes, from_step=step)
    summed: dict[str, float] = {}
    for micro in stream:
        stage, within = run.config.stage_at(micro.step)
        if stage.restart_uv and within == 0 and micro.micro == 0:
            restart_uv(run.transformer)
        last = micro.micro == run.shape.accumulation - 1
        for name, value in _forward_backward(run, stream, micro, last=last).items():
            summed[name] = summed.get(name, 0.0) + value / run.shape.accumulation
        if not last:
            continue
        _check_finite(run, f"loss at step {micro.step}", summed["total"])
        rate = learning_rate(
            within,
            peak=stage.learning_rate,
            total=stage.steps,
            warmup=stage.warmup_steps,
            final_ratio=stage.final_ratio,
        )
        set_learning_rate(run.state.optimizer, rate)
        limit = run.config.optimizer.clip_norm
        norm = clip_gradients(run.state.parameters.values(), limit)
        _check_finite(run, f"norm of the gradient at step {micro.step}", norm)
        run.state.optimizer.step()
        run.state.optimizer.zero_grad(set_to_none=True)
        run.state.average.update(micro.step + 1)
        yield micro.step + 1, micro.task, {**summed, "gradient_norm": norm, "learning_rate": rate}
        summed = {}


def _forward_backward(
    run: Run, stream: BatchStream, micro: MicroBatch, *, last: bool
) -> dict[str, float]:
    seed = run.config.seed
    mix = stream.mix_at(micro.step)
    plans = [mix.plan(micro.task, index, seed=seed) for index in micro.indices]
    streams = run.transformer.config.streams(DEFAULT_STREAMS)
    groups = plans[0].required_groups(streams)
    batch = (
        with_projection(
            micro.batch,
            plans,
            run.model.texture_base,
            copies=run.model.decoupled.copy is not None,
        )
        if PROJECTION in groups
        else micro.batch
    )
    encoded = run.encoder(batch, micro.indices, groups)
    encoded = replace(encoded, clean=as_residual(encoded.clean, run.model.texture_base))
    noisy = make_noisy(encoded, plans, micro.indices, run.config.noise, seed=seed, streams=streams)
    bf16 = run.config.run.precision == "bf16"
    with run.parallel.accumulate(run.module, last=last):
        with torch.autocast(run.parallel.device.type, torch.bfloat16, enabled=bf16):
            losses = run.module(noisy)
        (losses["total"] / run.shape.accumulation).backward()
    return {name: float(value.detach()) for name, value in losses.items() if name != "per_sample"}


def _check_finite(run: Run, what: str, value: float) -> None:
    """Stop before a step that would spoil all weights; every process must call it."""
    if run.parallel.any(not math.isfinite(value)):
        raise ContractError(
            what,
            expected="a finite number",
            got=str(value),
            remedy="Start another run, with a lower learning_rate in [[stages]], or with "
            "precision = 'fp32' in [run] if it was 'bf16'.",
        )


def _refuse_old(run: Run) -> int:
    if run.checkpoints.latest() is not None:
        raise UsageError(
            "--out",
            expected="a folder without a run",
            got=f"{run.folder}, with checkpoints",
            remedy="Add --resume to continue that run, or name another folder.",
        )
    return 0


def _resume(run: Run, say: Say) -> int:
    latest = run.checkpoints.latest()
    if latest is None:
        say(f"resume: no checkpoint in {run.folder}, starting at step 0")
        return 0
    record = read_record(latest)
    run.check_same(record)
    run.state.restore(latest.path / TENSORS)
    say(f"resume: {latest.path.name}, {run.config.total_steps - latest.step} steps to go")
    return latest.step
