"""Progress of stages: bars with times on a terminal, one plain line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from seqtex.prepare import PreparedJob

_HEARTBEAT_SECONDS = 10.0


class StageReporter:
    """Shows stages as they run; an instance is an ``on_progress(stage, done, total)`` callback.

    Everything goes to stderr, so that stdout holds only results. Use it as a context manager; it
    leaves the terminal in order when an error or an interrupt passes through.

    Args:
        console: where to write; stderr if not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._spoke = 0.0

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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

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
        """One line when a stage ends, and one every ten seconds while it runs."""
        now = time.perf_counter()
        if stage not in self._started:
            self._started[stage] = self._spoke = now
        seconds = now - self._started[stage]
        if done >= total:
            del self._started[stage]
            self.say(f"{stage}: {seconds:.2f} s")
        elif now - self._spoke > _HEARTBEAT_SECONDS:
            self._spoke = now
            self.say(f"{stage}: {done} of {total}, {seconds:.0f} s so far")

    def _draw(self, bars: Progress, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks or bars.tasks[self._tasks[stage]].total != total:
            self._tasks[stage] = bars.add_task(stage, total=total)
        bars.update(self._tasks[stage], completed=done)


def _speaks_unicode() -> bool:
    return (sys.stderr.encoding or "").lower().startswith("utf")
