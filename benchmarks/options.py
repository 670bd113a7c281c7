"""The options of ``python -m benchmarks``: which of them a sub-command takes, and their ranges."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqtex_core.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
OTHERS = {
    "ablation": "the paper's questions, trained small; half an hour, not part of 'all'",
    "goals": "what the results say about the goals; with --measure those of a device measured now",
    "report": "tables and plots of all results",
}
"""Sub-commands that are no benchmarks, and what they do."""
DEFAULTS: Mapping[str, Any] = {
    "device": "cpu",
    "out": None,
    "quick": False,
    "threads": None,
    "seed": 0,
    "minutes": None,
    "measure": False,
    "budget": None,
    "seeds": 2,
    "work": ROOT / "runs" / "ablation",
}
RUNNING = ("device", "out", "quick", "threads", "seed")
TAKEN: Mapping[str, Sequence[str]] = {
    "one benchmark": RUNNING,
    "all": (*RUNNING, "minutes"),
    "list": (),
    "report": ("out",),
    "goals": ("out", "measure"),
    "goals --measure": (*RUNNING, "minutes", "measure"),
    "ablation": ("out", "minutes", "budget", "seeds", "work"),
}
"""Names of the options that mean something to a sub-command."""
RANGES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "threads": ("a whole number from 1 to 1024", lambda n: 1 <= n <= 1024),
    "seed": ("a whole number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63),
    "minutes": ("a number above 0", lambda n: n > 0),
    "budget": ("at least 1 step", lambda n: n >= 1),
    "seeds": ("at least 1 run", lambda n: n >= 1),
}
"""What a number must be, in words and as a test."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """All options, those that were not given at their defaults.

    Args:
        arguments: words of the command line; by default those of this process.

    Raises:
        UsageError: an option that means nothing to the sub-command, or a number out of range.
        SystemExit: words that are no options, or ``--help``.
    """
    given = vars(_parser().parse_args(arguments))
    command = _command(given)
    strange = [f"--{name}" for name in given if name not in (*TAKEN[command], "name")]
    if strange:
        taken = ", ".join(f"--{name}" for name in TAKEN[command]) or "no options"
        raise UsageError(
            " ".join(strange),
            expected=f"not given for {command}",
            got="given",
            remedy=f"It takes {taken}.",
        )
    for name, (expected, fits) in RANGES.items():
        if name in given and not fits(given[name]):
            raise UsageError(
                f"--{name}",
                expected=expected,
                got=f"{given[name]}",
                remedy=f"Give such a number, or leave --{name} out.",
            )
    return argparse.Namespace(**{**DEFAULTS, **given})


def _command(given: Mapping[str, Any]) -> str:
    """The entry of ``TAKEN`` for a command line."""
    name = given["name"]
    if name == "goals" and given.get("measure"):
        return "goals --measure"
    return name if name in TAKEN else "one benchmark"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Benchmarks. The exit status is 1 if a row is wrong or failed.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("name", help="a benchmark, 'all', 'list', 'report', 'goals', 'ablation'")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu")
    parser.add_argument(
        "-o", "--out", type=Path, help="where results are, or go (default: benchmarks/results)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: seconds to a minute or two each"
    )
    parser.add_argument("--threads", type=int, help="of torch (default: 1 on CPU)")
    parser.add_argument("--seed", type=int, help="of all inputs (default: 0)")
    parser.add_argument("--minutes", type=float, help="begin no further run after this time")
    parser.add_argument(
        "--measure", action="store_true", help="goals: first run the benchmarks behind them"
    )
    ablation = parser.add_argument_group("ablation")
    ablation.add_argument("--budget", type=int, help="optimizer steps of every variant")
    ablation.add_argument("--seeds", type=int, help="runs of every variant (default: 2)")
    ablation.add_argument(
        "--work", type=Path, help="banks and finished runs; the same command continues there"
    )
    return parser
