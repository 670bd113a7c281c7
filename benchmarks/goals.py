"""What the project set out to reach, and what the result files say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from seqtex_core.errors import UsageError

from . import context
from .goal import Goal
from .goal_figures import Find, Record
from .goal_table import GOALS
from .report import SHARED, latest_runs, was_shared
from .result import read_run

Verdict = Literal["met", "missed", "reported", "not measured", "needs a GPU"]
TITLES = {"cpu": "On a CPU", "cuda": "On a GPU"}
COLUMNS = ("goal", "wanted", "figure", "verdict", "from", "command")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A goal and what is known about it.

    Args:
        goal: the goal.
        verdict: about the figure.
        figure: if there is one.
        source: device and run that it is from, in words.
    """

    goal: Goal
    verdict: Verdict
    figure: float | None = None
    source: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Texts under ``COLUMNS``."""
        goal = self.goal
        figure = "" if self.figure is None else f"{self.figure:{goal.form}}{goal.unit}"
        verdict = f"**{self.verdict}**" if self.verdict == "missed" else self.verdict
        return goal.name, goal.wanted, figure, verdict, self.source, f"`{goal.command}`"


def outcomes(
    results: Path, *, goals: Sequence[Goal] = GOALS, has_gpu: bool | None = None
) -> list[Outcome]:
    """Every goal with the latest run that tells, full runs before quick ones.

    Args:
        results: root of the results.
        goals: which.
        has_gpu: whether a GPU could be measured here; found out by default.
    """
    here = torch.cuda.is_available() if has_gpu is None else has_gpu
    runs = [read_run(path) for path in sorted(results.glob("*/*.json"))]
    known = {
        kind: latest_runs([run for run in runs if run["device"]["type"] == kind]) for kind in TITLES
    }
    return [_outcome(goal, known[goal.device], has_gpu=here) for goal in goals]


def markdown(found: Sequence[Outcome]) -> str:
    """The tables of all devices."""
    parts = [
        "# Goals",
        "Written by `python -m benchmarks goals` from the result files. Ratios are of the fastest "
        "calls on a CPU and of medians on a GPU; both implementations of a ratio ran in turns in "
        "one process. Of several cases the worst counts. On a shared machine, where the load was "
        f"above the number of CPUs, {SHARED}.",
    ]
    for kind, title in TITLES.items():
        rows = [outcome.cells for outcome in found if outcome.goal.device == kind]
        lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def plain(found: Sequence[Outcome]) -> str:
    """The same for a terminal."""
    lines = []
    for outcome in found:
        name, wanted, figure, _, source, command = outcome.cells
        known = f"{figure:>14}  {source}" if figure else command.strip("`")
        lines.append(f"{outcome.verdict:12} {name:58} {wanted:>14} {known}")
    return "\n".join(lines)


def measured_benchmarks(device: str, goals: Sequence[Goal] = GOALS) -> list[str]:
    """The benchmarks behind the goals of a device, in the order of the goals."""
    return list(dict.fromkeys(goal.benchmark for goal in goals if goal.device == device))


def not_yet_measured(names: Sequence[str], results: Path, *, device: str, quick: bool) -> list[str]:
    """Those of the benchmarks that have no result of this commit and kind of run.

    Args:
        names: of benchmarks.
        results: root of the results.
        device: "cpu" or "cuda".
        quick: whether quick runs are asked for.
    """
    commit, known = context.commit()["hash"], set()
    for path in sorted(results.glob("*/*.json")):
        run = read_run(path)
        alike = (run["device"]["type"], run["quick"], run["commit"]["hash"])
        if alike == (device, quick, commit):
            known |= {row["benchmark"] for row in run["rows"] if row["status"] != "failed"}
    return [name for name in names if name not in known]


def write_goals(results: Path) -> tuple[Path, str]:
    """Write ``goals.md`` into the root of the results; returns its path and a text to print.

    Args:
        results: root of the results.

    Raises:
        UsageError: no such folder.
        InputError: a file that does not fit the schema.
    """
    if not results.is_dir():
        raise UsageError("results", expected="a folder", got=f"none at {results}")
    found = outcomes(results)
    path = results / "goals.md"
    path.write_text(markdown(found), encoding="utf-8")
    return path, plain(found)


def _outcome(goal: Goal, runs: Mapping[str, Record], *, has_gpu: bool) -> Outcome:
    run = runs.get(goal.benchmark)
    figure = None if run is None or (goal.full and run["quick"]) else _figure(goal.find, run)
    if run is None or figure is None:
        absent = goal.device == "cuda" and not has_gpu
        return Outcome(goal=goal, verdict="needs a GPU" if absent else "not measured")
    commit = (run["commit"]["hash"] or "unknown")[:10]
    kind = "quick" if run["quick"] else "full"
    source = f"{run['device']['name']}, {run['date'][:10]}, {kind}, {commit}"
    source += ", **shared machine**" if was_shared(run) else ""
    return Outcome(goal=goal, verdict=goal.judge(figure), figure=figure, source=source)


def _figure(find: Find, run: Record) -> float | None:
    return find(run["rows"])
