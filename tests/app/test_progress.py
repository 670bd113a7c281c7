"""What a run says of its stages where there is no terminal."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from rich.console import Console

from seqtex.cli import progress
from seqtex.cli.progress import StageReporter


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


def reporter(shown: io.StringIO) -> StageReporter:
    return StageReporter(Console(file=shown, highlight=False, soft_wrap=True))


def test_a_stage_has_one_line_when_it_ends(shown: io.StringIO) -> None:
    with reporter(shown) as report:
        for done in range(3):
            report("Maps", done, 2)
        report("Encode", 0, 1)
    assert re.fullmatch(r"Maps: \d\.\d\d s\n", shown.getvalue())


def test_a_long_stage_of_one_step_is_told_of_while_it_runs(
    shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.02)
    with reporter(shown) as report:
        report("Denoise", 0, 1)
        until = time.monotonic() + 10  # it takes a fiftieth of a second, if the machine is free
        while "so far" not in shown.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        report("Denoise", 1, 1)
        threads = [thread.name for thread in threading.enumerate()]
    lines = shown.getvalue().splitlines()
    assert re.fullmatch(r"Denoise: 0 of 1, \d+ s so far", lines[0])
    assert re.fullmatch(r"Denoise: \d+\.\d\d s", lines[-1])
    assert "heartbeat" in threads
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]
