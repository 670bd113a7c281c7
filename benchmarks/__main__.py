"""``python -m benchmarks NAME``; see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    for folder in (ROOT / "geometry", ROOT / "backbones"):  # this checkout's, installed or not
        sys.path.insert(0, str(folder))
    if options.threads is not None or options.device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(options.threads or 1))
    from seqtex_core.errors import SeqTexError

    try:
        return _run(options)
    except SeqTexError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    if options.name == "report":
        from .report import write_report

        for path in write_report(options.out or RESULTS):
            print(path)
        return 0
    if options.name == "ablation":
        return _ablation(options)
    _refuse(options, ("budget", "seeds", "work"), "anything but the ablation")
    if options.name == "goals":
        return _goals(options)
    _refuse(options, ("measure",), "anything but the goals")
    from .suite import SUMMARIES, run_each, run_suite

    if options.name == "list":
        for name, summary in SUMMARIES.items():
            print(f"{name:15}{summary}")
        for name, summary in OTHERS.items():
            print(f"{name:15}{summary}")
        return 0
    if options.name == "all":
        for path in run_each(list(SUMMARIES), minutes=options.minutes, **_settings(options)):
            print(path)
        return 0
    _refuse(options, ("minutes",), "one benchmark")
    print(run_suite([options.name], **_settings(options)))
    return 0


OTHERS = {
    "ablation": "the paper's questions, trained small; half an hour, not part of 'all'",
    "goals": "what the results say about the goals; with --measure those of a device measured now",
    "report": "tables and plots of all results",
}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of every run."""
    return {
        "device": options.device,
        "quick": options.quick,
        "out": options.out or RESULTS,
        "threads": options.threads,
        "seed": options.seed,
    }


def _goals(options: argparse.Namespace) -> int:
    from .goals import measured_benchmarks, not_yet_measured, write_goals
    from .suite import run_each

    if options.measure:
        kind = {"device": options.device, "quick": options.quick}
        names = measured_benchmarks(options.device)
        names = not_yet_measured(names, options.out or RESULTS, **kind)
        for path in run_each(names, minutes=options.minutes, **_settings(options)):
            print(path, flush=True)
    else:
        _refuse(options, ("device", "quick", "threads", "seed", "minutes"), "goals unmeasured")
    path, text = write_goals(options.out or RESULTS)
    print(f"{text}\n{path}")
    return 0


def _refuse(options: argparse.Namespace, names: Sequence[str], what: str) -> None:
    """Refuse options that have no meaning for what was asked."""
    from seqtex_core.errors import UsageError

    given = [f"--{n}" for n in names if getattr(options, n) != _parser().get_default(n)]
    if given:
        raise UsageError(" ".join(given), expected=f"not given for {what}", got="given")


def _ablation(options: argparse.Namespace) -> int:
    from .ablation.run import run_ablation
    from .ablation.setting import Setting

    _refuse(options, ("device", "quick", "threads", "seed"), "the ablation: CPU, one thread")

    setting = Setting()
    path = run_ablation(
        setting if options.budget is None else setting.with_steps(options.budget),
        work=options.work,
        out=options.out or RESULTS / "ablation",
        seeds=options.seeds,
        minutes=options.minutes,
    )
    print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks.")
    parser.add_argument("name", help="a benchmark, 'all', 'list', 'report', 'goals', 'ablation'")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--out", type=Path, help="where results are, or go (default: benchmarks/results)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute each")
    parser.add_argument("--threads", type=int, help="of torch (default: 1 on CPU)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="begin no further run after this time")
    parser.add_argument(
        "--measure", action="store_true", help="goals: first run the benchmarks behind them"
    )
    ablation = parser.add_argument_group("ablation")
    ablation.add_argument("--budget", type=int, help="optimizer steps of every variant")
    ablation.add_argument("--seeds", type=int, default=2, help="runs of every variant")
    ablation.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "ablation",
        help="banks and finished runs; the same command continues there",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
