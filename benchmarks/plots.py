"""Plots of result files: attention against sequence length, a step's time; and the table of all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqtex_core.errors import MissingDependencyError

from .plots_roofline import MARKERS, SERIES, roofline
from .plots_scale import approximations, parallel
from .plots_training import memory, training
from .plots_work import foreground, scaling, waterfall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
Draw = Callable[[Sequence["Axes"], Mapping[str, Record]], bool]
COLORS = {
    "attention": "#4269d0",
    "matrix": "#efb118",
    "convolution": "#9c6b4e",
    "norm": "#6cc5b0",
    "copy and cast": "#ff725c",
    "pointwise": "#a463f2",
}
SHARE = "share of "


def write_plots(chosen: Mapping[str, Record], folder: Path) -> list[Path]:
    """All plots that the runs have data for, as PNG files in ``folder``.

    Args:
        chosen: run by benchmark, as ``report.latest_runs`` gives them.
        folder: where the files go.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    written = []
    for name, draw, size, panels in _PLOTS:
        figure = _figure(size)
        columns = min(panels, 2)
        axes = [figure.add_subplot(-(-panels // columns), columns, i + 1) for i in range(panels)]
        if draw(axes, chosen):
            path = folder / f"{name}.png"
            figure.tight_layout()
            figure.savefig(path, dpi=110, bbox_inches="tight")
            written.append(path)
    return written


def attention_length(axes: Axes, chosen: Mapping[str, Record]) -> bool:
    """Time of forward attention over the sequence length, with the time that the GEMM allows."""
    run = chosen.get("attention")
    rows = [r for r in (run["rows"] if run else []) if r["case"].startswith("sweep") and r["time"]]
    rows = [r for r in rows if not r["parameters"].get("backward")]
    if run is None or not rows:
        return False
    lines: dict[str, list[tuple[int, Record]]] = defaultdict(list)
    floors: dict[int, float] = {}
    for row in rows:
        length = int(row["parameters"]["queries"])
        lines[row["implementation"]].append((length, row["time"]))
        floors[length] = row["rate"]["limit_s"]
    for index, (name, values) in enumerate(sorted(lines.items())):
        values.sort(key=lambda value: value[0])
        lengths = [length for length, _ in values]
        color = SERIES[index % len(SERIES)]
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(
            lengths,
            [t["median_s"] * 1e3 for _, t in values],
            color=color,
            marker=marker,
            ms=5,
            lw=1.4,
            label=name,
        )
        axes.fill_between(
            lengths,
            [t["p10_s"] * 1e3 for _, t in values],
            [t["p90_s"] * 1e3 for _, t in values],
            color=color,
            alpha=0.15,
            lw=0,
        )
    lengths = sorted(floors)
    axes.plot(lengths, [floors[n] * 1e3 for n in lengths], "k--", lw=1, label="measured limit")
    first = rows[0]
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms (median, p10 to p90)")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.minorticks_off()
    axes.set_title(
        f"Attention forward, {first['parameters']['heads']} heads of "
        f"{first['parameters']['head_dim']}, {first['dtype']}"
    )
    axes.legend(fontsize=8)
    return True


def step_time(axes: Axes, chosen: Mapping[str, Record]) -> bool:
    """Median time of a step by kind of work, with the time that the measured limit allows."""
    run = chosen.get("step")
    rows = [row for row in (run["rows"] if run else []) if row["time"] and row["rate"]]
    if not rows:
        return False
    labels = [f"{row['implementation']}\n{row['dtype']}" for row in rows]
    left = [0.0] * len(rows)
    for kind, color in COLORS.items():
        widths = [
            row["metrics"].get(SHARE + kind, 0.0) * row["time"]["median_s"] * 1e3 for row in rows
        ]
        if any(widths):
            axes.barh(labels, widths, left=left, color=color, label=kind, height=0.62)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    for index, row in enumerate(rows):
        floor = row["rate"]["limit_s"] * 1e3
        label = "measured limit" if index == 0 else None
        axes.plot([floor, floor], [index - 0.36, index + 0.36], "k", lw=2, label=label)
        share = row["rate"]["achieved_over_limit"]
        axes.annotate(
            f" {left[index]:.3g} ms, {share:.0%}", (left[index], index), va="center", fontsize=8
        )
    axes.invert_yaxis()
    axes.set_xlim(0, max(left) * 1.22)
    axes.set(xlabel="ms (median), split by the profiler's shares")
    axes.set_title(f"One step, {rows[0]['case']} tokens: time over limit")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return True


def _figure(size: Sequence[float]) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib",
            expected="an installed package",
            got=str(error),
            remedy="Install it: pip install matplotlib",
        ) from error
    figure = Figure(figsize=(size[0], size[1]))
    FigureCanvasAgg(figure)
    return figure


def _single(draw: Callable[[Axes, Mapping[str, Record]], bool]) -> Draw:
    """A drawing of one panel as one of several."""
    return lambda axes, chosen: draw(axes[0], chosen)


_PLOTS: tuple[tuple[str, Draw, tuple[float, float], int], ...] = (
    ("roofline", roofline, (13.0, 5.2), 2),
    ("attention_length", _single(attention_length), (8.0, 5.2), 1),
    ("step_time", _single(step_time), (8.0, 4.0), 1),
    ("waterfall", _single(waterfall), (8.0, 4.0), 1),
    ("foreground", _single(foreground), (8.0, 4.4), 1),
    ("scaling", scaling, (12.0, 8.0), 4),
    ("training", training, (12.0, 4.2), 2),
    ("memory", _single(memory), (8.0, 4.4), 1),
    ("approximations", approximations, (12.0, 4.8), 2),
    ("parallel", _single(parallel), (8.0, 4.8), 1),
)
"""Name, drawing, inches, panels."""
