"""Named stages of a run: who reports progress, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[str, int, int], None]
"""Called as ``on_progress(stage, done, total)``; ``done == total`` ends the stage."""


class StageClock:
    """Times the stages of a run and passes their progress on.

    Args:
        on_progress: told about every stage's start, steps and end. Optional.

    Convention:
        ``times`` maps a stage's name to its wall-clock seconds, in the order the stages ran; a
        stage that runs several times (one texture set after the other) adds up.
    """

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self.times: dict[str, float] = {}
        self._on_progress = on_progress

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[Callable[[int], None]]:
        """Time the block as ``name``; yields a function that reports how many steps are done."""
        self._report(name, 0, total)
        start = time.perf_counter()
        yield lambda done: self._report(name, min(done, total - 1), total)
        self.times[name] = self.times.get(name, 0.0) + time.perf_counter() - start
        self._report(name, total, total)

    def _report(self, name: str, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(name, done, total)
