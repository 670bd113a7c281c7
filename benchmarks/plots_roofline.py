"""The roofline: rates of whatever has FLOP over their intensity, of the rest over what it moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
Points = dict[tuple[str, str], list[tuple[float, float]]]
SERIES = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#9c6b4e", "#97bbf5")
MARKERS: Sequence[Any] = (*"os^Dv<>PX*hdp", (4, 1, 0), (6, 1, 0), (8, 1, 0), (4, 1, 45))
"""Also stars of so many points."""
OTHER = "grey"


def roofline(axes: Sequence[Axes], chosen: Mapping[str, Record]) -> bool:
    """Useful rates against the limits; False if no row has a rate.

    On the left what has FLOP and bytes, over its arithmetic intensity; on the right what only moves
    bytes, such as norms and rotations, over how many.

    Args:
        axes: two.
        chosen: run by benchmark.
    """
    arithmetic, traffic = defaultdict(list), defaultdict(list)
    gemm: dict[str, float] = {}
    copy: dict[str, float] = {}
    for run, row in _rated(chosen):
        work, rate, dtype = row["work"], row["rate"], row["dtype"]
        name = "gemm" if row["benchmark"] == "limits" and work["flop"] else row["benchmark"]
        if work["flop"]:
            point = work["flop"] / work["bytes"], rate["flop_per_s"] / 1e9
            arithmetic[name, dtype].append(point)
        else:
            traffic[name, dtype].append((work["bytes"] / 1e6, rate["bytes_per_s"] / 1e9))
        limits = run["limits"]["start"]
        copied = limits["copy_bytes_per_s"] / 1e9  # runs differ where others run too
        copy[dtype] = max(copied, copy.get(dtype, 0.0))
        if work["flop"] and dtype in limits["gemm_flop_per_s"]:
            gemm[dtype] = max(limits["gemm_flop_per_s"][dtype] / 1e9, gemm.get(dtype, 0.0))
    if not arithmetic and not traffic:
        return False
    points = {**arithmetic, **traffic}
    dtypes = sorted({dtype for _, dtype in points})
    colors = {dtype: SERIES[index % len(SERIES)] for index, dtype in enumerate(dtypes)}
    names = sorted({name for name, _ in points})
    markers = {name: MARKERS[index % len(MARKERS)] for index, name in enumerate(names)}
    _ceilings(axes[0], arithmetic, {d: (gemm[d], copy[d]) for d in gemm}, colors)
    _copy_limit(axes[1], traffic, max(copy.values()))
    for one, part in ((axes[0], arithmetic), (axes[1], traffic)):
        _scatter(one, part, colors, markers)
    axes[0].set(xlabel="useful FLOP per byte", ylabel="useful GFLOP/s")
    axes[0].set_title(
        "Roofline: FLOP and bytes, under the best limits of these processes", fontsize=10
    )
    axes[1].set(xlabel="MB moved by a call", ylabel="useful GB/s")
    axes[1].set_title("Only bytes: above the line operands stayed in cache", fontsize=10)
    _legend(axes[1], colors, markers)
    return True


def _rated(chosen: Mapping[str, Record]) -> Iterator[tuple[Record, Record]]:
    """Runs and rows with a rate and bytes."""
    for benchmark, run in chosen.items():
        # approximations leave out some of the work that their rows name
        for row in run["rows"] if benchmark != "approximations" else ():
            if row["rate"] and row["work"]["bytes"]:
                yield run, row


def _ceilings(
    axes: Axes,
    points: Points,
    ceilings: Mapping[str, tuple[float, float]],
    colors: Mapping[str, str],
) -> None:
    """Lines of what matrix products and copies allow, by dtype."""
    if not points:
        axes.set_axis_off()
        return
    every = [x for values in points.values() for x, _ in values]
    low, high = min(every) / 4, max(every) * 32  # room for the labels of the lines
    above = float("inf")
    for dtype, (gemm, copy) in sorted(ceilings.items(), key=lambda item: -item[1][0]):
        corner = gemm / copy
        low, end = min(low, corner / 4), max(high, corner)
        axes.plot([low, corner, end], [low * copy, gemm, gemm], color=colors[dtype], lw=1.2)
        axes.annotate(
            f"{dtype} GEMM {gemm:.0f} GFLOP/s",
            (end, gemm),
            ha="right",
            va="bottom" if above / gemm > 1.5 else "top",
            fontsize=8,
            color=colors[dtype],
        )
        above = gemm
    axes.set(xscale="log", yscale="log")


def _copy_limit(axes: Axes, points: Points, copy: float) -> None:
    if not points:
        axes.set_axis_off()
        return
    axes.axhline(copy, color="#444444", lw=1.2)
    label = f"copy {copy:.1f} GB/s"
    axes.annotate(
        label, (0.99, copy), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom"
    )
    axes.set(xscale="log", yscale="log")


def _scatter(
    axes: Axes, points: Points, colors: Mapping[str, str], markers: Mapping[str, str]
) -> None:
    for (name, dtype), values in sorted(points.items()):
        axes.scatter(
            [x for x, _ in values],
            [y for _, y in values],
            s=26,
            marker=markers[name],
            color=colors[dtype],
            alpha=0.8,
            linewidths=0,
        )


def _legend(axes: Axes, colors: Mapping[str, str], markers: Mapping[str, str]) -> None:
    """Benchmarks by marker, dtypes by colour; both are of both panels."""
    for name, marker in markers.items():
        axes.scatter([], [], s=26, marker=marker, color=OTHER, label=name)
    for dtype, color in colors.items():
        axes.plot([], [], color=color, lw=3, label=dtype)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
