"""Losses, speed and memory while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .logs import MetricsLog, Say, open_tensorboard, peak_memory

if TYPE_CHECKING:
    from .run import Run


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is to be written after a step.

    Args:
        checkpoint: the state.
        snapshot: the averages.
        preview: the model and a sample grid.
    """

    checkpoint: bool
    snapshot: bool
    preview: bool


class ProgressMeter:
    """Logs steps and knows when it is time to write; only the first process writes.

    Args:
        run: the run.
        from_step: steps done before.
        say: prints a line.
    """

    def __init__(self, run: Run, *, from_step: int, say: Say) -> None:
        self._run = run
        self._say = say
        output = run.config.output
        self._metrics = MetricsLog(run.folder, from_step=from_step) if run.is_first else None
        self._board = None
        if run.is_first:
            self._board = open_tensorboard(output.tensorboard, run.folder, say, from_step=from_step)
        self._losses: dict[str, list[float]] = {}
        self._since = (time.monotonic(), time.process_time(), from_step)
        self._saved_at = time.monotonic()

    def step_done(self, step: int, task: str, values: Mapping[str, float]) -> None:
        """Take in the values of a step; every process must call it.

        Args:
            step: steps done.
            task: of the step.
            values: losses and more of this process.
        """
        means = dict(zip(values, self._run.parallel.mean(list(values.values())), strict=True))
        self._losses.setdefault(task, []).append(means["total"])
        if self._metrics is not None:
            self._metrics.write({"step": step, "task": task, **means})
        if self._board is not None:
            self._board.write(step, {f"{task}/{name}": value for name, value in means.items()})
        if step % self._run.config.output.log_every == 0:
            self._report(step, means["learning_rate"])

    def due(self, step: int) -> Due:
        """What is to be written now; differs between processes only by their clocks."""
        output, total = self._run.config.output, self._run.config.total_steps
        waited = (time.monotonic() - self._saved_at) / 60
        late = output.checkpoint_minutes > 0 and waited >= output.checkpoint_minutes
        every, snapshot = output.preview_every, self._run.config.ema.snapshot_every
        return Due(
            checkpoint=step == total or step % output.checkpoint_every == 0 or late,
            snapshot=snapshot > 0 and (step % snapshot == 0 or step == total),
            preview=every > 0 and step % every == 0 and step != total,
        )

    def saved(self) -> None:
        """A checkpoint was written."""
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Close all logs."""
        for log in (self._metrics, self._board):
            if log is not None:
                log.close()

    def _report(self, step: int, rate: float) -> None:
        wall, cpu, before = self._since
        self._since = (time.monotonic(), time.process_time(), step)
        seconds = max(self._since[0] - wall, 1e-9)
        per_second = (step - before) / seconds
        memory = peak_memory(self._run.parallel.device)
        mean = {task: sum(x) / len(x) for task, x in self._losses.items()}
        self._losses = {}
        speed = {
            "steps_per_second": per_second,
            "samples_per_second": per_second * self._run.config.run.batch_size,
            "cpu_seconds_per_step": (self._since[1] - cpu) / max(step - before, 1),
        }
        if memory is not None:
            speed["memory_gb"] = memory
        if self._metrics is not None:
            self._metrics.write({"step": step, "event": "speed", **speed})
        if self._board is not None:
            self._board.write(step, {f"speed/{name}": value for name, value in speed.items()})
        total = self._run.config.total_steps
        left = (total - step) / max(per_second, 1e-9)
        losses = ", ".join(f"{task} {value:.4f}" for task, value in sorted(mean.items()))
        self._say(
            f"step {step}/{total}  {losses}  lr {rate:.1e}  {per_second:.2f} steps/s  "
            f"{speed['samples_per_second']:.1f} samples/s  "
            f"{'' if memory is None else f'{memory:.2f} GB  '}{_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
