"""Figures that goals are about, read from the rows of result files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .attention_peers import APPROXIMATE

Record = Mapping[str, Any]
Rows = Sequence[Record]
Find = Callable[[Rows], float | None]
Pick = Callable[[Iterable[float]], float]
_EQUAL = ("dtype", "implementation")


def matching(rows: Rows, **where: str) -> list[Record]:
    """Rows that ran and fit.

    Args:
        rows: of a benchmark.
        where: fields: dtype and implementation are equal to the text, others begin with it.
    """

    def fits(row: Record) -> bool:
        return all(
            row[key] == text if key in _EQUAL else str(row[key]).startswith(text)
            for key, text in where.items()
        )

    return [row for row in rows if row["status"] == "ok" and fits(row)]


def best_time(row: Record) -> float:
    """Seconds of the fastest call on a CPU, which other programs disturb; the median on a GPU."""
    time = row["time"]
    return float(time["median_s" if time["clock"] == "cuda_event" else "min_s"])


def ratio(slow: str, fast: str, **where: str) -> Find:
    """How often ``fast`` fits into ``slow``, in the worst of the cases that have both.

    Args:
        slow: implementation.
        fast: implementation.
        where: see :func:`matching`.
    """

    def find(rows: Rows) -> float | None:
        times = [_times(rows, name, where) for name in (slow, fast)]
        both = times[0].keys() & times[1].keys()
        return min(times[0][case] / times[1][case] for case in both) if both else None

    return find


def total_ratio(slow: str, fast: str, **where: str) -> Find:
    """Time of all cases by ``slow`` over that by ``fast``; arguments as :func:`ratio`."""

    def find(rows: Rows) -> float | None:
        times = [_times(rows, name, where) for name in (slow, fast)]
        both = times[0].keys() & times[1].keys()
        sums = [sum(part[case] for case in both) for part in times]
        return sums[0] / sums[1] if both else None

    return find


def fastest(names: Sequence[str], **where: str) -> Find:
    """Seconds of the fastest of some implementations."""

    def find(rows: Rows) -> float | None:
        times = [time for name in names for time in _times(rows, name, where).values()]
        return min(times) if times else None

    return find


def metric(key: str, *, pick: Pick = max, **where: str) -> Find:
    """A metric of the rows that fit; of several the largest, or what ``pick`` takes."""

    def find(rows: Rows) -> float | None:
        values = [row["metrics"].get(key) for row in matching(rows, **where)]
        known = [float(value) for value in values if value is not None]
        return pick(known) if known else None

    return find


def achieved(**where: str) -> Find:
    """Percent of the nearer limit, in the worst row that fits."""

    def find(rows: Rows) -> float | None:
        rates = [row["rate"] for row in matching(rows, **where) if row["rate"]]
        return 100 * min(rate["achieved_over_limit"] for rate in rates) if rates else None

    return find


def differing(key: str, other: str) -> Find:
    """The number of rows in which two metrics differ."""

    def find(rows: Rows) -> float | None:
        pairs = [(row["metrics"].get(key), row["metrics"].get(other)) for row in rows]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        return float(sum(a != b for a, b in known)) if known else None

    return find


def auto_over_best(rows: Rows) -> float | None:
    """Rate of the chosen attention implementation over the best exact one, in the worst case."""
    cases: dict[tuple[str, str], dict[str, Record]] = {}
    for row in matching(rows):
        if row["time"] and row["implementation"] not in APPROXIMATE:
            cases.setdefault((row["case"], row["dtype"]), {})[row["implementation"]] = row
    shares = []
    for found in cases.values():
        chosen = found.get(str(next(iter(found.values()))["parameters"].get("auto")))
        if chosen is not None:
            shares.append(min(map(best_time, found.values())) / best_time(chosen))
    return min(shares) if shares else None


def _times(rows: Rows, implementation: str, where: Mapping[str, str]) -> dict[Any, float]:
    found = matching(rows, implementation=implementation, **where)
    return {(row["case"], row["dtype"]): best_time(row) for row in found if row["time"]}
