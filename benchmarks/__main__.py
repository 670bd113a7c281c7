"""``python -m benchmarks NAME``; see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seqtex_core.errors import SeqTexError

from .options import OTHERS, ROOT, parse

RESULTS = Path(__file__).resolve().parent / "results"
NOT_ALL_RIGHT = 1
"""Exit status where a row is wrong or failed."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    for folder in (ROOT / "geometry", ROOT / "backbones"):  # this checkout's, installed or not
        sys.path.insert(0, str(folder))
    try:
        options = parse(arguments)
        if options.threads is not None or options.device == "cpu":
            os.environ.setdefault("OMP_NUM_THREADS", str(options.threads or 1))
        return _run(options)
    except SeqTexError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted. What was being measured is lost; files are whole.", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    if options.name == "report":
        from .report import write_report

        for path in write_report(options.out or RESULTS):
            print(path)
        return 0
    if options.name == "ablation":
        return _ablation(options)
    if options.name == "goals":
        return _goals(options)
    from .suite import SUMMARIES, run_each, run_suite

    if options.name == "list":
        for name, summary in {**SUMMARIES, **OTHERS}.items():
            print(f"{name:15}{summary}")
        return 0
    if options.name == "all":
        settings = _settings(options)
        return _written(run_each(list(SUMMARIES), minutes=options.minutes, **settings))
    return _written([run_suite([options.name], **_settings(options))])


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of every run."""
    return {
        "device": options.device,
        "quick": options.quick,
        "out": options.out or RESULTS,
        "threads": options.threads,
        "seed": options.seed,
    }


def _written(paths: Iterable[Path]) -> int:
    """Print the paths of results as they come, then their rows that are not right; the status."""
    from .result import read_run

    bad = []
    for path in paths:
        print(path, flush=True)
        bad += [row for row in read_run(path)["rows"] if row["status"] in ("wrong", "failed")]
    for row in bad:
        parts = (row["benchmark"], row["case"], row["implementation"], row["dtype"])
        where = ", ".join(part for part in parts if part)
        print(f"{row['status']}: {where}: {row['reason']}", file=sys.stderr)
    return NOT_ALL_RIGHT if bad else 0


def _goals(options: argparse.Namespace) -> int:
    from seqtex.outputs import check_writable

    from .goals import measured_benchmarks, not_yet_measured, write_goals
    from .suite import run_each

    check_writable((options.out or RESULTS) / "goals.md")
    status = 0
    if options.measure:
        kind = {"device": options.device, "quick": options.quick}
        names = measured_benchmarks(options.device)
        names = not_yet_measured(names, options.out or RESULTS, **kind)
        status = _written(run_each(names, minutes=options.minutes, **_settings(options)))
    path, text = write_goals(options.out or RESULTS)
    print(f"{text}\n{path}")
    return status


def _ablation(options: argparse.Namespace) -> int:
    import torch

    from seqtex.outputs import check_writable

    from .ablation.run import run_ablation
    from .ablation.setting import Setting
    from .suite import check_out

    out = options.out or RESULTS / "ablation"
    check_out(out, torch.device("cpu"))
    check_writable(options.work / "banks", option="--work")
    setting = Setting()
    path = run_ablation(
        setting if options.budget is None else setting.with_steps(options.budget),
        work=options.work,
        out=out,
        seeds=options.seeds,
        minutes=options.minutes,
    )
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
