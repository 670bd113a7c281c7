"""Progress of stages: bars with times on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from seqtex.prepare import PreparedJob

_HEARTBEAT_SECONDS = 10.0


@dataclass(kw_only=True)
class _Running:
    """A stage that has not ended."""

    since: float
    done: int
    total: int


class StageReporter:
    """Shows stages as they run; an instance is an ``on_progress(stage, done, total)`` callback.

    Everything goes to stderr, so that stdout holds only results. Use it as a context manager; it
    leaves the terminal in order when an error or an interrupt passes through. Where there is no
    terminal a stage has one line, when it ends, and one every ten seconds while it runs, though it
    reports no step in all that time.

    Args:
        console: where to write; stderr if not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._running: dict[str, _Running] = {}
        self._spoke = 0.0
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> StageReporter:
        if self._console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(finished_text="[green]✓[/]" if _speaks_unicode() else "+"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._bars.start()
        else:
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if self._heart is not None:
            self._ended.set()
            self._heart.join()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of ``stage`` are finished."""
        if self._bars is not None:
            self._draw(self._bars, stage, done, total)
        else:
            self._print(stage, done, total)

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(text, markup=False)

    def say_choices(self, job: PreparedJob) -> None:
        """Print what was decided automatically, and the notes on the mesh."""
        self.say(f"  mesh: {job.asset.path.name}, {len(job.mesh.faces)} faces")
        for label, text in job.choices.items():
            self.say(f"  {label}: {text}")
        for note in job.asset.notes:
            self.say(f"  note: {note}")

    def _print(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        running = self._running.get(stage)
        if running is None:
            self._spoke = now
            running = self._running[stage] = _Running(since=now, done=done, total=total)
        running.done, running.total = done, total
        if done >= total:
            del self._running[stage]
            self.say(f"{stage}: {now - running.since:.2f} s")

    def _beat(self) -> None:
        """A thread: tells of the running stage whenever nothing was said for long."""
        while not self._ended.wait(_HEARTBEAT_SECONDS / 10):
            now, stages = time.perf_counter(), [*self._running.items()]
            if stages and now - self._spoke > _HEARTBEAT_SECONDS:
                self._spoke = now
                stage, at = stages[-1]
                self.say(f"{stage}: {at.done} of {at.total}, {now - at.since:.0f} s so far")

    def _draw(self, bars: Progress, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks or bars.tasks[self._tasks[stage]].total != total:
            self._tasks[stage] = bars.add_task(stage, total=total)
        bars.update(self._tasks[stage], completed=done)


def _speaks_unicode() -> bool:
    return (sys.stderr.encoding or "").lower().startswith("utf")
