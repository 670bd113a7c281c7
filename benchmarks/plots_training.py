"""Plots of training steps and of peak memory against the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
COLORS = ("#4269d0", "#efb118", "#3ca951", "#a463f2", "#ff725c", "#6cc5b0")
PARTS = (
    ("weights_bytes", "weights", "#97bbf5"),
    ("moments_bytes", "moments", "#a463f2"),
    ("", "gradients and activations", "#ff725c"),
)


def training(axes: Sequence[Axes], chosen: Mapping[str, Record]) -> bool:
    """Tokens per second and memory of a training step, by family and way of computing."""
    run = chosen.get("train")
    rows = [row for row in (run["rows"] if run else []) if row["time"] and row["memory"]]
    if not rows:
        return False
    families = list(dict.fromkeys(row["parameters"]["family"] for row in rows))
    ways = list(dict.fromkeys(row["implementation"] for row in rows))
    height = 0.8 / len(ways)
    for row in rows:
        way = ways.index(row["implementation"])
        place = families.index(row["parameters"]["family"]) + (way - (len(ways) - 1) / 2) * height
        seen = row["metrics"]
        axes[0].barh(place, seen["tokens_per_s"], height * 0.92, color=COLORS[way % len(COLORS)])
        left = 0.0
        for key, _, color in PARTS:
            width = (seen[key] if key else row["memory"]["peak_bytes"]) / 2**20
            edge = COLORS[way % len(COLORS)]
            axes[1].barh(place, width, height * 0.86, left, color=color, edgecolor=edge, lw=1.2)
            left += width
    for one in axes:
        one.set_yticks(range(len(families)), families, fontsize=8)
        one.invert_yaxis()
    for index, way in enumerate(ways):
        axes[0].barh(0, 0, color=COLORS[index % len(COLORS)], label=way)
    for _, label, color in PARTS:
        axes[1].barh(0, 0, color=color, label=label)
    first = rows[0]["parameters"]
    axes[0].set(xlabel="tokens per second")
    axes[1].set(xlabel="MiB at the peak of a step (outline: as on the left)")
    axes[0].set_title(
        f"Training step, {first['layers']} layers of width {first['dim']}, {rows[0]['dtype']}",
        fontsize=10,
    )
    for one in axes:
        one.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=4)
    return True


def memory(axes: Axes, chosen: Mapping[str, Record]) -> bool:
    """Measured peaks of every stage and measure over what the memory plan expects."""
    run = chosen.get("memory")
    rows = [row for row in (run["rows"] if run else []) if row["memory"]]
    if not rows:
        return False
    for index, row in enumerate(rows):
        seen = row["metrics"]
        weights, working = seen["weights_bytes"] / 2**20, seen["working_bytes"] / 2**20
        first = index == 0
        axes.barh(index, weights, color="#97bbf5", height=0.6, label="weights" if first else None)
        axes.barh(index, working, 0.6, weights, color="#4269d0", label="tensors" if first else None)
        expected = seen["expected_bytes"] / 2**20
        label = "expected by the plan" if first else None
        axes.plot([expected] * 2, [index - 0.4, index + 0.4], "k", lw=2, label=label)
        axes.annotate(
            f" {seen['measured_over_expected']:.0%}",
            (max(expected, weights + working), index),
            va="center",
            fontsize=8,
        )
    labels = [f"{row['case']}, {row['implementation']}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set(xlabel="MiB at the peak")
    axes.set_title("Peak memory by stage, texture and measure, against the plan")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=3)
    return True
