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
ORDER = (
    "limits",
    "counts",
    "attention",
    "rope",
    "kernels",
    "block",
    "step",
    "waterfall",
    "foreground",
    "scaling",
    "memory",
    "train",
    "vae",
    "rasterize",
    "pipeline",
)
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
        f"{run['date']}, commit {revision}, {'quick' if run['quick'] else 'full'} run, "
        f"{run['threads']} threads, seed {run['seed']}, torch {run['versions']['torch']}, "
        f"load {_number(load['start'])} to {_number(load['end'])}{_shared(run)}. "
        f"Limits: GEMM {gemm} GFLOP/s, copy {limits['copy_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"launch {limits['launch_s'] * 1e6:.1f} us; at the end over at the start: {drift}."
    )


def _shared(run: Record) -> str:
    """A warning where other programs wanted more than this machine has left."""
    cpus = run["device"]["details"].get("logical_cpus")
    load = run["load_average"]["start"]
    if cpus is None or load is None or load <= cpus:
        return ""
    return f" on {cpus} logical CPUs: **the machine was shared**, read ratios rather than times"


def _tables(name: str, rows: Sequence[Record]) -> list[str]:
    """The tables of a benchmark: what was counted and what was measured have columns of their own.

    Args:
        name: of the benchmark.
        rows: its rows.
    """
    if name == "counts":
        return [_table(rows, COUNT_COLUMNS)]
    if name == "scaling":
        counted = [row for row in rows if row["case"].startswith("counted")]
        timed = [row for row in rows if row not in counted]
        return [_table(counted, SCALING_COLUMNS), _table(timed, TIME_COLUMNS)]
    if name == "memory":
        return [_table(rows, MEMORY_COLUMNS)]
    return [_table(rows, (*TIME_COLUMNS, *EXTRA_COLUMNS.get(name, ())))]


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


def _mib(name: str) -> Callable[[Record], str]:
    def cell(row: Record) -> str:
        value = row["metrics"].get(name)
        return "" if value is None else f"{value / 2**20:.1f}"

    return cell


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
SCALING_COLUMNS: Sequence[Column] = (
    ("case", lambda row: row["case"].removeprefix("counted, ")),
    ("TFLOP a step", _metric("tflop_per_step", ".1f")),
    ("with all frames at UV resolution", _metric("tflop_per_step at UV resolution", ".1f")),
    ("GFLOP a layer", _metric("gflop_per_layer", ".1f")),
    ("pointwise GB a layer", _metric("pointwise_gb_per_layer", ".2f")),
    ("launches a layer", _metric("launches_per_layer", "d")),
    ("MiB beside the weights", _mib("working_bytes")),
)
MEMORY_COLUMNS: Sequence[Column] = (
    ("stage", lambda row: row["case"]),
    ("what is given up", lambda row: row["implementation"]),
    ("dtype", lambda row: row["dtype"] or ""),
    ("MiB held", _peak),
    ("expected", _mib("expected_bytes")),
    ("held / expected", _metric("measured_over_expected", ".1%")),
    ("weights", _mib("weights_bytes")),
    ("tensors", _mib("working_bytes")),
    ("of them kept over the steps", _mib("kept_bytes")),
    ("costs", lambda row: "; ".join(row["notes"])),
)
EXTRA_COLUMNS: Mapping[str, Sequence[Column]] = {
    "train": (
        ("tokens/s", _metric("tokens_per_s", ".0f")),
        ("time / off", _metric("time_over_plain", ".2f")),
        ("peak / off", _metric("peak_over_plain", ".2f")),
        ("weights MiB", _mib("weights_bytes")),
        ("moments MiB", _mib("moments_bytes")),
        ("all MiB", _mib("total_bytes")),
    ),
    "waterfall": (
        ("speedup", _metric("speedup", ".2f")),
        ("predicted", _metric("predicted_speedup", ".2f")),
        ("ms / predicted ms", _metric("measured_over_predicted", ".2f")),
    ),
    "foreground": (
        ("speedup", _metric("speedup", ".2f")),
        ("bound", _metric("bound", ".2f")),
    ),
}
