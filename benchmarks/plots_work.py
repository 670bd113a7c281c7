"""Plots of what a step costs: one optimisation after the other, more views, larger textures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
MEASURED, OTHER, GAIN, LIMIT = "#4269d0", "#ff725c", "#3ca951", "#444444"


def waterfall(axes: Axes, chosen: Mapping[str, Record]) -> bool:
    """Time of a step after every optimisation, what each one took off, and the predictions."""
    rows = [row for row in _rows(chosen, "waterfall") if row["time"] and row["rate"]]
    if not rows:
        return False
    times = [row["time"]["median_s"] * 1e3 for row in rows]
    for index, (row, time) in enumerate(zip(rows, times, strict=True)):
        before = times[index - 1] if index else time
        axes.barh(index, time, color=MEASURED, height=0.6)
        if before > time:
            axes.barh(index, before - time, left=time, color=GAIN, alpha=0.45, height=0.6)
        elif before < time:
            axes.barh(index, time - before, left=before, color=OTHER, height=0.6)
        predicted = row["metrics"]["predicted_s"] * 1e3
        axes.plot(predicted, index, "D", color="k", ms=5, label=None if index else "predicted")
        speedup, said = row["metrics"]["speedup"], row["metrics"]["predicted_speedup"]
        axes.annotate(
            f" {time:.3g} ms, {speedup:.2f}x (predicted {said:.2f}x)",
            (max(time, before, predicted), index),
            va="center",
            fontsize=8,
        )
    limit = rows[0]["rate"]["limit_s"] * 1e3
    axes.axvline(limit, color=LIMIT, ls="--", lw=1, label="measured limit, useful work")
    axes.set_yticks(range(len(rows)), [row["implementation"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    furthest = max(*times, *(row["metrics"]["predicted_s"] * 1e3 for row in rows))
    axes.set(xlabel="ms (median)", xlim=(0, furthest * 1.55))
    axes.set_title(f"Exact optimisations: {rows[0]['case']}, {rows[0]['dtype']}")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2)
    return True


def scaling(axes: Sequence[Axes], chosen: Mapping[str, Record]) -> bool:
    """Views and texture sizes: counted work and memory at full size, measured time at a small."""
    rows = _rows(chosen, "scaling")
    counted = [row for row in rows if row["case"].startswith("counted")]
    measured = [row for row in rows if row["time"]]
    if not counted and not measured:
        return False
    for column, (key, label) in enumerate((("views", "views"), ("uv_size", "texels of the UV"))):
        _counted(axes[column], [row for row in counted if _varies(row, key)], key)
        _measured(axes[2 + column], [row for row in measured if _varies(row, key)], key)
        for one in (axes[column], axes[2 + column]):
            one.set_xlabel(label)
    axes[0].set_title("Full size, 30 layers: counted", fontsize=10)
    axes[1].set_title("Full size, 4 views of 512 px: counted", fontsize=10)
    for one in axes[2:]:
        one.set_title("Width and tokens reduced: measured", fontsize=10)
    return True


def _rows(chosen: Mapping[str, Record], name: str) -> list[Record]:
    return list(chosen[name]["rows"]) if name in chosen else []


def _varies(row: Record, key: str) -> bool:
    return ("view" in row["case"].rpartition(",")[2]) == (key == "views")


def _counted(axes: Axes, rows: Sequence[Record], key: str) -> None:
    places = [row["parameters"][key] for row in rows]
    lines = (
        ("TFLOP a step", "tflop_per_step", 1.0, MEASURED, "o-"),
        ("with all frames at UV resolution", "tflop_per_step at UV resolution", 1.0, OTHER, "s--"),
        ("GiB beside the weights", "working_bytes", 2.0**30, GAIN, "^-"),
    )
    for label, metric, unit, color, style in lines:
        values = [row["metrics"][metric] / unit for row in rows]
        axes.plot(places, values, style, color=color, label=label, ms=5, lw=1.4)
    _ticks(axes, places, key)


def _measured(axes: Axes, rows: Sequence[Record], key: str) -> None:
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    for index, name in enumerate(names):
        mine = [row for row in rows if row["implementation"] == name]
        places = [row["parameters"][key] for row in mine]
        color = (MEASURED, OTHER)[index % 2]
        times = [row["time"]["median_s"] * 1e3 for row in mine]
        limits = [row["rate"]["limit_s"] * 1e3 for row in mine]
        axes.plot(places, times, "os"[index % 2] + "-", color=color, label=name, ms=5, lw=1.4)
        axes.plot(places, limits, ":", color=color, lw=1.2, label=f"measured limit, {name}")
    axes.set_ylabel("ms (median)")
    _ticks(axes, [row["parameters"][key] for row in rows], key)


def _ticks(axes: Axes, places: Sequence[int], key: str) -> None:
    if not places:
        axes.set_axis_off()
        return
    if key != "views":
        axes.set_xscale("log", base=2)
    known = sorted(set(places))
    axes.set_xticks(known, [str(place) for place in known])
    axes.set_yscale("log")
    axes.margins(y=0.35)  # room for the legend
    axes.legend(fontsize=7, loc="upper left")


def foreground(axes: Axes, chosen: Mapping[str, Record]) -> bool:
    """Speed over all tokens and its bound by work, over the share of tokens that are there."""
    rows = [row for row in _rows(chosen, "foreground") if "bound" in row["metrics"]]
    curve = [row for row in rows if row["implementation"].endswith("%")]
    typical = [row for row in rows if row["implementation"] == "typical object"]
    if not curve:
        return False
    shares = [100 * row["metrics"]["share of views"] for row in curve]
    speeds = [row["metrics"]["speedup"] for row in curve]
    axes.plot(shares, speeds, "o-", color=MEASURED, label="measured", ms=5, lw=1.4)
    bounds = [row["metrics"]["bound"] for row in curve]
    axes.plot(shares, bounds, ":", color=LIMIT, lw=1.4, label="bound by work")
    for row, share in zip(curve, shares, strict=True):
        seen = row["metrics"]
        label = f"{seen['achieved_over_bound']:.0%}"
        place, below = (share, seen["speedup"]), (-3, -4)
        axes.annotate(
            label, place, below, textcoords="offset points", fontsize=7, ha="right", va="top"
        )
    for row in typical:
        label = "typical object: 21% of views, 63% of UV"
        axes.axhline(row["metrics"]["speedup"], color=GAIN, lw=1.2, ls="--", label=label)
    axes.set(yscale="log", xlabel="tokens on the surface, %", ylabel="speed over all tokens")
    ticks = (1, 2, 4, 8)
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(f"Foreground tokens: {curve[0]['case']}, {curve[0]['dtype']}", fontsize=10)
    axes.legend(fontsize=8)
    return True
