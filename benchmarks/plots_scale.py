"""Plots of what may be given up for speed, and of more devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
FAMILIES = (
    ("step reuse", "step reuse, by threshold", "#4269d0", "o", "top"),
    ("instead of", "fewer steps", "#ff725c", "s", "bottom"),
    ("fp8", "fp8 linears", "#3ca951", "^", "top"),
)
"""Part of the implementation's name, label, colour, marker, where labels are aligned."""
PLANS = (
    ("both branches", "gather", "rows shared, keys gathered", "#4269d0", "o-"),
    ("both branches", "ulysses", "rows shared, heads exchanged", "#97bbf5", "s-"),
    ("branches apart", "gather", "branches apart, keys gathered", "#ff725c", "^-"),
    ("branches apart", "ulysses", "branches apart, heads exchanged", "#efb118", "v-"),
)


def approximations(axes: Sequence[Axes], chosen: Mapping[str, Record]) -> bool:
    """Error over speed of every approximation, a panel per model."""
    rows = [row for row in _rows(chosen, "approximations") if row["time"]]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    if not cases:
        return False
    for one, case in zip(axes, cases, strict=False):
        for part, label, color, marker, align in FAMILIES:
            mine = [row for row in rows if row["case"] == case and part in row["implementation"]]
            points = sorted(
                (row["metrics"]["speedup"], row["metrics"]["relative_l2"], _short(row))
                for row in mine
                if row["metrics"].get("relative_l2")
            )
            style: dict[str, Any] = {"color": color, "marker": marker, "ms": 6, "label": label}
            one.plot([x for x, _, _ in points], [y for _, y, _ in points], **style)
            named = {y: (x, ", ".join(n for _, v, n in points if v == y)) for x, y, _ in points}
            for y, (x, name) in named.items():  # equal points share a label
                one.annotate(f"  {name}", (x, y), fontsize=7, va=align)
        one.axvline(1.0, color="#444444", ls="--", lw=1)
        one.set(xscale="log", yscale="log", xlabel="speed over the exact run (fastest calls)")
        one.set_ylabel("relative L2 from the exact latents")
        one.margins(x=0.14, y=0.12)
        _speed_ticks(one)
        one.set_title(case, fontsize=10)
        one.legend(fontsize=8, loc="best")
    for one in axes[len(cases) :]:
        one.set_axis_off()
    return True


def parallel(axes: Axes, chosen: Mapping[str, Record]) -> bool:
    """Projected speed over the number of devices, and the bound that the work sets."""
    rows = [row for row in _rows(chosen, "parallel") if row["status"] == "ok"]
    if not rows:
        return False
    alone = [row for row in rows if row["metrics"]["devices"] == 1]
    for branches, way, label, color, style in PLANS:
        mine = [row for row in rows if _follows(row["implementation"], branches, way)]
        points = sorted(
            (
                row["metrics"]["devices"],
                row["metrics"]["projected_speedup"],
                row["metrics"]["bound"],
            )
            for row in (*alone, *mine)
        )
        places = [devices for devices, _, _ in points]
        axes.plot(places, [y for _, y, _ in points], style, color=color, label=label, ms=6, lw=1.4)
        if way == "gather":
            bound = [y for _, _, y in points]
            axes.plot(places, bound, ":", color=color, lw=1.2, label=f"bound by work, {branches}")
    axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="speed over one device")
    ticks = sorted({row["metrics"]["devices"] for row in rows})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_yticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_title("One texture on several H100: projected from counts, not measured", fontsize=10)
    axes.legend(fontsize=8)
    return True


def _follows(plan: str, branches: str, way: str) -> bool:
    """Whether a plan belongs to a line; branches apart on two devices share no rows."""
    return plan.startswith(branches) and (f"({way})" in plan or plan == "branches apart")


def _short(row: Record) -> str:
    """What tells points of a family apart."""
    if "threshold" in row["metrics"]:
        return f"{row['metrics']['threshold']:g}"
    number, _, rest = str(row["implementation"]).partition(" step")
    return number if "instead of" in rest else ""


def _speed_ticks(axes: Axes) -> None:
    """Powers of two within what is drawn: one step is thirty times as fast as thirty."""
    low, high = axes.get_xlim()
    ticks = [2.0**power for power in range(-6, 11) if low <= 2.0**power <= high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)


def _rows(chosen: Mapping[str, Record], name: str) -> list[Record]:
    return list(chosen[name]["rows"]) if name in chosen else []
