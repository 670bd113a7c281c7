"""``report``: result files to Markdown tables, one file per device, with plots beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqtex.outputs import check_writable
from seqtex_core.errors import UsageError

from .formulas import FORMULAS
from .plots import write_plots
from .report_columns import (
    EXTRA_COLUMNS,
    TABLES,
    TIME_COLUMNS,
    TIMES,
    UNTIMED,
    VERDICT,
    Column,
    Record,
    number,
)
from .result import read_run

ORDER = (
    "limits",
    "counts",
    "attention",
    "geo_attention",
    "rope",
    "kernels",
    "block",
    "layer",
    "step",
    "loop",
    "waterfall",
    "foreground",
    "scaling",
    "memory",
    "train",
    "fsdp",
    "parallel",
    "approximations",
    "vae",
    "rasterize",
    "pipeline",
    "gpu_tests",
)
SHARED = "times and ratios are not those of a quiet one"
TRAINING_FLOP = (
    "matrix products of forward and backward without checkpointing, counted on that very step by "
    "FlopCounterMode; attention is two products forward and four backward"
)


def write_report(results: Path) -> list[Path]:
    """Write ``report.md`` and plots into every device's folder below ``results``.

    Of every benchmark the latest full run counts; a quick one only where there is no full one.

    Args:
        results: root of the results.

    Returns:
        All files written.

    Raises:
        UsageError: no result files, or a folder that cannot be written.
        InputError: a file that does not fit the schema.
    """
    folders = sorted({path.parent for path in results.glob("*/*.json")})
    if not folders:
        raise UsageError(
            "results",
            expected="result files in folders by device",
            got=f"none in {results}",
            remedy="Run `python -m benchmarks all --quick` first.",
        )
    for folder in folders:
        check_writable(folder / "report.md")
    written: list[Path] = []
    for folder in folders:
        chosen = latest_runs([read_run(path) for path in sorted(folder.glob("*.json"))])
        plots = write_plots(chosen, folder)
        target = folder / "report.md"
        target.write_text(markdown(chosen, plots), encoding="utf-8")
        written += [target, *plots]
    return written


def latest_runs(runs: Sequence[Record]) -> dict[str, Record]:
    """Per benchmark the run to report, with the rows of that benchmark only."""
    chosen: dict[str, Record] = {}
    for run in sorted(runs, key=lambda r: (not r["quick"], r["date"])):
        rows = defaultdict(list)
        for row in run["rows"]:
            rows[row["benchmark"]].append(row)
        for name, part in rows.items():
            chosen[name] = {**run, "rows": part}
    known = [name for name in ORDER if name in chosen]
    return {name: chosen[name] for name in [*known, *sorted(set(chosen) - set(known))]}


def markdown(chosen: Mapping[str, Record], plots: Sequence[Path]) -> str:
    """The whole report of one device."""
    first = next(iter(chosen.values()))
    parts = [
        f"# Benchmarks on {first['device']['name']}",
        "Medians; times in ms. Achieved is the time that the measured limit allows over the median"
        " time, the limit being the slower of matrix products and copies in the same process;"
        " above 100% the operands stayed in cache. Error is relative, against fp64.",
    ]
    if len(plots) > 0:
        parts.append("\n".join(f"![{plot.stem}]({plot.name})" for plot in plots))
    for name, run in chosen.items():
        parts += [f"## {name}", _provenance(run)]
        for part in _tables(name, run["rows"]):
            parts.append(part)
        parts.append(_refused(run["rows"]))
    known = {**FORMULAS, "training_flop": TRAINING_FLOP}
    used = "\n".join(f"* `{name}`: {text}" for name, text in known.items())
    parts += ["## Formulas", used]
    return "\n\n".join(part for part in parts if part) + "\n"


def _provenance(run: Record) -> str:
    commit, limits, load = run["commit"], run["limits"]["start"], run["load_average"]
    revision = (commit["hash"] or "unknown")[:10] + (" with changes" if commit["dirty"] else "")
    gemm = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in limits["gemm_flop_per_s"].items())
    drift = ", ".join(f"{k} {v:.2f}" for k, v in run["limits"]["drift"].items())
    return (
        f"{run['date']}, commit {revision}, {'quick' if run['quick'] else 'full'} run "
        f"of {run['seconds']:.0f} s, "
        f"{run['threads']} threads, seed {run['seed']}, torch {run['versions']['torch']}, "
        f"load {number(load['start'])} to {number(load['end'])}{_shared(run)}. "
        f"Limits: GEMM {gemm} GFLOP/s, copy {limits['copy_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"launch {limits['launch_s'] * 1e6:.1f} us; at the end over at the start: {drift}."
    )


def was_shared(run: Record) -> bool:
    """Whether other programs wanted more than this machine has left, before or during the run."""
    cpus = run["device"]["details"].get("logical_cpus")
    loads = [load for load in run["load_average"].values() if load is not None]
    return cpus is not None and any(load > cpus for load in loads)


def _shared(run: Record) -> str:
    if not was_shared(run):
        return ""
    cpus = run["device"]["details"]["logical_cpus"]
    return f" on {cpus} logical CPUs: **the machine was shared**, {SHARED}"


def _tables(name: str, rows: Sequence[Record]) -> list[str]:
    """The tables of a benchmark: what was counted and what was measured have columns of their own.

    Args:
        name: of the benchmark.
        rows: its rows.
    """
    if name in TABLES:
        return [_table(rows, TABLES[name])]
    words, columns = UNTIMED.get(name, ("", ()))
    untimed = [row for row in rows if words and words in row["case"]]
    timed = [row for row in rows if row not in untimed]
    timed_columns = (*TIME_COLUMNS, *EXTRA_COLUMNS.get(name, ()))
    tables = [_table(untimed, columns), _table(timed, timed_columns)]
    return tables if rows[0] in untimed else tables[::-1]


def _table(rows: Sequence[Record], columns: Sequence[Column]) -> str:
    shown = [row for row in rows if row["status"] != "unsupported"]
    if not shown:
        return ""
    if any(row["status"] != "ok" for row in shown) and TIMES not in columns:
        columns = (*columns, VERDICT)
    lines = [
        "| " + " | ".join(title for title, _ in columns) + " |",
        "|" + "---|" * len(columns),
    ]
    lines += ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in shown]
    return "\n".join(lines)


def _refused(rows: Sequence[Record]) -> str:
    reasons: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        if row["status"] == "unsupported":
            reasons[row["implementation"], row["reason"]] += 1
    if not reasons:
        return ""
    lines = [f"* `{name}` ({count} rows): {why}" for (name, why), count in reasons.items()]
    return "Could not run:\n\n" + "\n".join(lines)
