"""``python -m benchmarks NAME``; see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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
    _refuse(options, ("budget", "seeds", "minutes", "work"), "anything but the ablation")
    from .suite import SUMMARIES, run_suite

    if options.name == "list":
        for name, summary in SUMMARIES.items():
            print(f"{name:12}{summary}")
        print(
            f"{'ablation':12}the paper's questions, trained small; half an hour, not part of 'all'"
        )
        return 0
    path = run_suite(
        list(SUMMARIES) if options.name == "all" else [options.name],
        device=options.device,
        quick=options.quick,
        out=options.out or RESULTS,
        threads=options.threads,
        seed=options.seed,
    )
    print(path)
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
    parser.add_argument("name", help="a benchmark, 'all', 'list', or 'report'")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--out", type=Path, help="where results are, or go (default: benchmarks/results)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute each")
    parser.add_argument("--threads", type=int, help="of torch (default: 1 on CPU)")
    parser.add_argument("--seed", type=int, default=0)
    ablation = parser.add_argument_group("ablation")
    ablation.add_argument("--budget", type=int, help="optimizer steps of every variant")
    ablation.add_argument("--seeds", type=int, default=2, help="runs of every variant")
    ablation.add_argument("--minutes", type=float, help="begin no further run after this time")
    ablation.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "ablation",
        help="banks and finished runs; the same command continues there",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
