"""Columns of the report's tables, by benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Column = tuple[str, Callable[[Record], str]]


def number(value: float | None, form: str = ".2f") -> str:
    """A value in a format, to which "x" may be added as a unit; "" for ``None``."""
    unit = "x" if form.endswith("x") else ""
    return "" if value is None else format(value, form.removesuffix("x")) + unit


def _time(row: Record) -> str:
    t = row["time"]
    return number(t["median_s"] * 1e3, ".3g") if t else row["reason"] or ""


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
    return lambda row: number(row["metrics"].get(name), form)


def _parameter(name: str) -> Callable[[Record], str]:
    return lambda row: str(row["parameters"].get(name, ""))


def _notes(row: Record) -> str:
    return "; ".join(row["notes"])


def _mib(name: str) -> Callable[[Record], str]:
    def cell(row: Record) -> str:
        value = row["metrics"].get(name)
        return "" if value is None else f"{value / 2**20:.1f}"

    return cell


def _met(name: str, form: str) -> Callable[[Record], str]:
    """A number with its goal, where it has one."""

    def cell(row: Record) -> str:
        metrics = row["metrics"]
        if f"{name}_goal" not in metrics:
            return number(metrics.get(name), form)
        verdict = "met" if metrics[f"{name}_goal_met"] else "missed"
        return f"{metrics[name]:{form}} ({verdict}: {metrics[f'{name}_goal']:{form}})"

    return cell


TIMES: Column = ("ms", _time)
"""Says what is not right, too."""
TIME_COLUMNS: Sequence[Column] = (
    ("case", lambda row: row["case"]),
    ("implementation", lambda row: row["implementation"]),
    ("dtype", lambda row: row["dtype"] or ""),
    TIMES,
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
APPROXIMATION_COLUMNS: Sequence[Column] = (
    ("case", lambda row: row["case"]),
    ("implementation", lambda row: row["implementation"]),
    ("dtype", lambda row: row["dtype"] or ""),
    TIMES,
    ("p10 to p90 (n, clock)", _range),
    ("speed", _metric("speedup", ".2fx")),
    ("relative L2 from exact", _metric("relative_l2", ".1e")),
    ("PSNR, dB", _metric("psnr_db", ".1f")),
    ("steps computed", _metric("share_of_steps_computed", ".0%")),
    ("notes", _notes),
)
PARALLEL_COLUMNS: Sequence[Column] = (
    ("devices", _metric("devices", "d")),
    ("who computes what", lambda row: row["implementation"]),
    ("GFLOP of the busiest, a layer", _metric("gflop of the busiest", ".1f")),
    ("bound by work", _metric("bound", ".2fx")),
    ("MB received, a layer", _metric("received_mb", ".1f")),
    ("of them waited for", _metric("received_mb_waited_for", ".1f")),
    ("projected ms a step", _metric("projected_step_ms", ".1f")),
    ("projected speed", _metric("projected_speedup", ".2fx")),
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
    ("stage, texels of the texture", lambda row: row["case"]),
    ("what is given up", lambda row: row["implementation"]),
    ("dtype", lambda row: row["dtype"] or ""),
    ("MiB held", _peak),
    ("expected", _mib("expected_bytes")),
    ("held / expected", _metric("measured_over_expected", ".1%")),
    ("weights", _mib("weights_bytes")),
    ("tensors", _mib("working_bytes")),
    ("of them kept over the steps", _mib("kept_bytes")),
    ("costs", _notes),
)
MACHINE_CODE_COLUMNS: Sequence[Column] = (
    ("kernel", lambda row: row["implementation"]),
    ("direction", lambda row: ", ".join(row["case"].split(", ")[1:-1])),
    ("compiled for", lambda row: row["case"].rpartition(", ")[2]),
    ("dtype", lambda row: row["dtype"] or ""),
    ("warps", _metric("warps", "d")),
    ("registers", _metric("registers", "d")),
    ("stack, bytes", _metric("stack_bytes", "d")),
    ("in flight / needed", _metric("in_flight", ".2f")),
    ("narrowest store, bits", _metric("narrowest_store_bits", "d")),
    ("loads below 128 bits", _metric("narrow_loads", "d")),
)
TEXTURE_COLUMNS: Sequence[Column] = (
    ("case", lambda row: row["case"]),
    ("implementation", lambda row: row["implementation"]),
    ("dtype", lambda row: row["dtype"] or ""),
    ("TFLOP (goal)", _met("tflop", ".2f")),
    ("over one frame", _metric("over_one_frame", ".2fx")),
    ("encoded, pixels", _parameter("encoded")),
    ("decoded", _parameter("decoded")),
    ("notes", _notes),
)
KEPT_COLUMNS: Sequence[Column] = (
    ("case", lambda row: row["case"]),
    ("tokens", lambda row: row["implementation"]),
    ("of views", _parameter("num_mv")),
    ("of the texture", _parameter("num_uv")),
    ("GFLOP", _metric("gflop", ".1f")),
    ("by the formula", _metric("formula_gflop", ".1f")),
)
TEST_COLUMNS: Sequence[Column] = (
    ("tests", lambda row: row["implementation"]),
    *((name, _metric(name, "d")) for name in ("passed", "failed", "error", "skipped")),
    ("not right", _notes),
)
EXTRA_COLUMNS: Mapping[str, Sequence[Column]] = {
    "kernels": (("a program takes", _notes),),
    "train": (
        ("tokens/s", _metric("tokens_per_s", ".0f")),
        ("time / off", _metric("time_over_plain", ".2f")),
        ("peak / off", _metric("peak_over_plain", ".2f")),
        ("weights MiB", _mib("weights_bytes")),
        ("moments MiB", _mib("moments_bytes")),
        ("all MiB", _mib("total_bytes")),
    ),
    "fsdp": (
        ("samples/s", _metric("samples_per_s", ".2f")),
        ("CPU s of a process", _metric("cpu_s_per_process", ".2f")),
        ("over one process", _metric("speedup", ".2fx")),
        ("MiB of a process", _mib("total_bytes")),
        ("over one process's", _metric("memory_over_one", ".0%")),
        ("weights MiB", _mib("weights_bytes")),
        ("moments MiB", _mib("moments_bytes")),
        ("DTensors, %", _metric("dtensor_percent", ".0f")),
    ),
    "geo_attention": (
        ("over", _metric("over", ".3f")),
        ("of", lambda row: str(row["metrics"].get("over_what", ""))),
    ),
    "waterfall": (
        ("speedup", _metric("speedup", ".2f")),
        ("predicted", _metric("predicted_speedup", ".2f")),
        ("ms / predicted ms", _metric("measured_over_predicted", ".2f")),
    ),
    "foreground": (
        ("speedup", _metric("speedup", ".2f")),
        ("bound", _metric("bound", ".2f")),
        ("achieved / bound", _metric("achieved_over_bound", ".0%")),
        ("PSNR unseen, dB", _metric("psnr_unseen_db", ".2f")),
    ),
}
TABLES: Mapping[str, Sequence[Column]] = {
    "approximations": APPROXIMATION_COLUMNS,
    "counts": COUNT_COLUMNS,
    "gpu_tests": TEST_COLUMNS,
    "memory": MEMORY_COLUMNS,
    "parallel": PARALLEL_COLUMNS,
}
"""Of benchmarks whose tables have none of the usual columns."""
UNTIMED: Mapping[str, tuple[str, Sequence[Column]]] = {
    "foreground": ("counted", KEPT_COLUMNS),
    "kernels": ("machine code", MACHINE_CODE_COLUMNS),
    "scaling": ("counted", SCALING_COLUMNS),
    "vae": ("one texture", TEXTURE_COLUMNS),
}
"""By benchmark words in the cases that are counted or compiled, not timed, and their columns."""
VERDICT: Column = (
    "verdict",
    lambda row: row["status"] + (f": {row['reason']}" if row["reason"] else ""),
)
"""For tables without times, where a row is not right."""
