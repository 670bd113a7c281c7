"""``report``: result files to Markdown tables, one file per device, with plots beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqtex_core.errors import UsageError

from .formulas import FORMULAS
from .plots import write_plots
from .result import read_run

Record = Mapping[str, Any]
Column = tuple[str, Callable[[Record], str]]
ORDER = ("limits", "counts", "attention", "rope", "block", "step", "rasterize", "pipeline")


def write_report(results: Path) -> list[Path]:
    """Write ``report.md`` and plots into every device's folder below ``results``.

    Of every benchmark the latest full run counts; a quick one only where there is no full one.

    Args:
        results: root of the results.

    Returns:
        All files written.

    Raises:
        UsageError: no result files.
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
        columns = COUNT_COLUMNS if name == "counts" else TIME_COLUMNS
        parts += [f"## {name}", _provenance(run)]
        parts += [_table(run["rows"], columns), _refused(run["rows"])]
    used = "\n".join(f"* `{name}`: {text}" for name, text in FORMULAS.items())
    parts += ["## Formulas", used]
    return "\n\n".join(part for part in parts if part) + "\n"


def _provenance(run: Record) -> str:
    commit, limits, load = run["commit"], run["limits"]["start"], run["load_average"]
    revision = (commit["hash"] or "unknown")[:10] + (" with changes" if commit["dirty"] else "")
    gemm = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in limits["gemm_flop_per_s"].items())
    drift = ", ".join(f"{k} {v:.2f}" for k, v in run["limits"]["drift"].items())
    return (
        f"{run['date']}, commit {revision}, {'quick' if run['quick'] else 'full'} run, "
        f"{run['threads']} threads, seed {run['seed']}, torch {run['versions']['torch']}, "
        f"load {_number(load['start'])} to {_number(load['end'])}. "
        f"Limits: GEMM {gemm} GFLOP/s, copy {limits['copy_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"launch {limits['launch_s'] * 1e6:.1f} us; at the end over at the start: {drift}."
    )


def _table(rows: Sequence[Record], columns: Sequence[Column]) -> str:
    shown = [row for row in rows if row["status"] != "unsupported"]
    if not shown:
        return ""
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


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def _time(row: Record) -> str:
    t = row["time"]
    return _number(t["median_s"] * 1e3, ".3g") if t else row["reason"] or ""


def _range(row: Record) -> str:
    t = row["time"]
    return f"{t['p10_s'] * 1e3:.3g} to {t['p90_s'] * 1e3:.3g} ({t['n']}, {t['clock']})" if t else ""


def _throughput(row: Record) -> str:
    rate = row["rate"]
    if not rate:
        return ""
    if rate["flop_per_s"]:
        return f"{rate['flop_per_s'] / 1e9:.1f} GFLOP/s"
    return f"{rate['bytes_per_s'] / 1e9:.2f} GB/s"


def _achieved(row: Record) -> str:
    rate = row["rate"]
    return f"{rate['achieved_over_limit']:.1%} of {rate['limit']}" if rate else ""


def _error(row: Record) -> str:
    accuracy = row["accuracy"]
    if not accuracy or accuracy["relative"] is None:
        share = row["metrics"].get("differing_share")
        return "" if share is None else f"{share:.2%} of pixels differ"
    if accuracy["plain_relative"] is None:
        return f"{accuracy['relative']:.1e}"
    return f"{accuracy['relative']:.1e} (plain {accuracy['plain_relative']:.1e})"


def _peak(row: Record) -> str:
    memory = row["memory"]
    return f"{memory['peak_bytes'] / 2**20:.1f}" if memory else ""


def _kernels(row: Record) -> str:
    names = [name.removeprefix("aten::").replace("|", "/")[:48] for name in row["kernels"][:2]]
    return ", ".join(f"`{name}`" for name in names)


def _metric(name: str, form: str) -> Callable[[Record], str]:
    return lambda row: _number(row["metrics"].get(name), form)


def _met(name: str, form: str) -> Callable[[Record], str]:
    def cell(row: Record) -> str:
        metrics = row["metrics"]
        verdict = "met" if metrics[f"{name}_goal_met"] else "missed"
        return f"{metrics[name]:{form}} ({verdict}: {metrics[f'{name}_goal']:{form}})"

    return cell


TIME_COLUMNS: Sequence[Column] = (
    ("case", lambda row: row["case"]),
    ("implementation", lambda row: row["implementation"]),
    ("dtype", lambda row: row["dtype"] or ""),
    ("ms", _time),
    ("p10 to p90 (n, clock)", _range),
    ("useful", _throughput),
    ("achieved", _achieved),
    ("error", _error),
    ("peak MiB", _peak),
    ("kernels", _kernels),
)
COUNT_COLUMNS: Sequence[Column] = (
    ("model", lambda row: row["implementation"]),
    ("GFLOP per layer (goal)", _met("gflop", ".1f")),
    ("formula", _metric("formula_gflop", ".1f")),
    ("pointwise GB (goal)", _met("pointwise_gb", ".2f")),
    ("matrix GB", _metric("matrix_gb", ".2f")),
    ("launches (goal)", _met("launches", "d")),
    ("of them pointwise", _metric("pointwise_launches", "d")),
    ("GFLOP per step outside the layers", _metric("fixed_gflop", ".2f")),
)
