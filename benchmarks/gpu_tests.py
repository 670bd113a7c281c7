"""``gpu_tests``: the tests that need a CUDA device, run by pytest in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .result import Row, Scalar
from .runner import Session, describe

TESTS = Path(__file__).resolve().parents[1] / "tests"
LONGEST_S = 240.0
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)\b")


def run(session: Session) -> list[Row]:
    """One row with the numbers of tests by outcome; those that fail are its notes."""
    row = _row(session)
    session.say(f"{describe(row)}{dict(row.metrics)} {'; '.join(row.notes)}")
    return [row]


def counted(summary: str) -> dict[str, Scalar]:
    """Numbers of tests by outcome, from the last line that pytest prints.

    Args:
        summary: like ``"1 failed, 20 passed, 3 skipped in 4.05s"``.
    """
    found = {"passed": 0, "failed": 0, "error": 0, "skipped": 0}
    for number, outcome in _COUNT.findall(summary):
        found[outcome.rstrip("s") if outcome.startswith("error") else outcome] += int(number)
    return dict(found)


def gpu_test_files() -> list[Path]:
    """Files with tests that are marked so; the others may need packages that are not there."""
    return [
        path
        for path in sorted(TESTS.rglob("test_*.py"))
        if "mark.gpu" in path.read_text(encoding="utf-8")
    ]


def run_marked(files: Sequence[Path], *, marker: str = "gpu") -> subprocess.CompletedProcess[str]:
    """The tests of some files that are marked so; what it printed.

    A file that does not import, for lack of a package, is an error of its own and stops no other.

    Args:
        files: under the tests of this checkout.
        marker: which tests.
    """
    root = TESTS.parent
    paths = os.pathsep.join(map(str, (root, root / "backbones", root / "geometry")))
    options = ["-m", marker, "-q", "--no-header", "--tb=line", "-rfE", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "--continue-on-collection-errors"]
    return subprocess.run(
        [*command, *map(str, files)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


def _row(session: Session) -> Row:
    row = Row(benchmark="gpu_tests", case="all", implementation="pytest -m gpu")
    if not session.on_cuda:
        return replace(row, status="unsupported", reason="needs a CUDA device, not cpu")
    if importlib.util.find_spec("pytest") is None:
        why = "needs the package pytest: pip install pytest"
        return replace(row, status="unsupported", reason=why)
    try:
        done = run_marked(gpu_test_files())
    except subprocess.TimeoutExpired:
        return replace(row, status="failed", reason=f"still running after {LONGEST_S:.0f} s")
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    seen = counted(lines[-1])
    if not seen["passed"]:
        return replace(row, status="failed", reason=lines[-1])
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return replace(row, notes=tuple(told[:20])).with_metrics(**seen)
