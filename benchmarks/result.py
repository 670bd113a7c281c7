"""Rows and runs, and how they are written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from seqtex_core.errors import ContractError, InputError
from seqtex_core.whole_files import replacing

from .schema import FORMAT, RUN
from .validator import problems

Scalar = str | int | float | bool | None
Status = Literal["ok", "unsupported", "wrong", "failed"]
Clock = Literal["cpu", "wall", "cuda_event"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Quantiles of a sample of times, in seconds."""

    median_s: float
    p10_s: float
    p90_s: float
    min_s: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long calls took.

    Args:
        clock: which clock the quantiles are of: CPU time of all threads, wall time, or the
            device's own events.
        median_s: of ``n`` calls, in seconds, as the other quantiles.
        p10_s: tenth percentile.
        p90_s: ninetieth percentile.
        min_s: the fastest call.
        n: calls that were timed.
        warmup: calls before them.
        cache: whether the caches held the inputs ("warm") or were flushed before each call.
        wall: the same calls by the wall clock.
    """

    clock: Clock
    median_s: float
    p10_s: float
    p90_s: float
    min_s: float
    n: int
    warmup: int
    cache: Literal["warm", "cold"]
    wall: Spread


@dataclass(frozen=True, kw_only=True)
class Work:
    """What must be done, whatever an implementation does; with the names of the formulas.

    Args:
        flop: useful FLOP, a multiply-add is two; ``None`` where FLOP are not the point.
        flop_formula: name of the formula, see ``formulas``.
        bytes: least traffic: every input read once, every output written once.
        bytes_formula: name of the formula.
    """

    flop: float | None = None
    flop_formula: str | None = None
    bytes: float | None = None
    bytes_formula: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Work over time, and how near that is to what the machine can do.

    Args:
        flop_per_s: useful FLOP per second.
        bytes_per_s: useful bytes per second.
        limit: which measured limit is the nearer one ("gemm float32", "copy", ...).
        limit_s: time that the limit allows.
        achieved_over_limit: ``limit_s`` over the median time.
    """

    flop_per_s: float | None
    bytes_per_s: float | None
    limit: str
    limit_s: float
    achieved_over_limit: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Distance from the reference, beside that of plain torch in the same dtype.

    Args:
        reference: what it was compared with.
        relative: ``|out - ref| / |ref|`` over all elements; ``None`` if not finite.
        max_abs: largest absolute difference.
        plain: name of the implementation that counts as plain torch.
        plain_relative: its ``relative``.
        plain_max_abs: its ``max_abs``.
        finite: no NaN and no infinity came out, in memory that held NaN before.
        repeatable: a second call gave the same bits.
    """

    reference: str
    relative: float | None
    max_abs: float | None
    plain: str | None = None
    plain_relative: float | None = None
    plain_max_abs: float | None = None
    finite: bool
    repeatable: bool


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak of what one call allocated beyond its inputs.

    Args:
        peak_bytes: the peak.
        reserved_bytes: peak of the caching allocator, on CUDA.
        meaning: how it was measured.
    """

    peak_bytes: float
    reserved_bytes: float | None
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation on one case.

    Args:
        benchmark: name of the benchmark.
        case: what was computed.
        implementation: by what.
        status: "ok"; "unsupported": it says it cannot; "wrong": too far from the reference, so
            not timed; "failed": it raised.
        reason: why, unless "ok".
        dtype: of the inputs, without "torch.".
        parameters: sizes and options.
        accuracy: against the reference.
        time: of the calls.
        work: what had to be done.
        rate: work over time over limit.
        memory: peak.
        kernels: names of what the profiler saw run longest, in order.
        metrics: further numbers.
        notes: sentences.
    """

    benchmark: str
    case: str
    implementation: str
    status: Status = "ok"
    reason: str | None = None
    dtype: str | None = None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    time: Timing | None = None
    work: Work | None = None
    rate: Rate | None = None
    memory: Memory | None = None
    kernels: Sequence[str] = ()
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def with_metrics(self, **metrics: Scalar) -> Row:
        """The same row with further numbers."""
        return replace(self, metrics={**self.metrics, **metrics})

    def failing(self, error: Exception) -> Row:
        """The same row without a time, with what was raised as its reason."""
        said = (str(error).strip().splitlines() or ["no message"])[0]
        reason = f"{type(error).__name__}: {said}"
        return replace(self, status="failed", reason=reason, time=None, rate=None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        record = asdict(self)
        record["kernels"], record["notes"] = list(self.kernels), list(self.notes)
        return record


def write_run(record: Mapping[str, Any], folder: Path) -> Path:
    """Write a run as ``folder/<device>/<date>-<name>.json`` after checking it; returns the path.

    Args:
        record: the run, see ``schema.RUN``; "format" is added.
        folder: root of the results.

    Raises:
        ContractError: the record does not fit the schema; nothing is written.
    """
    full = {"format": FORMAT, **record}
    wrong = problems(full, RUN)
    if wrong:
        raise ContractError("benchmark result", expected="schema RUN", got="; ".join(wrong[:5]))
    stamp = "".join(c for c in full["date"][:19] if c not in "-:")
    name = f"{stamp}-{full['name']}{'-quick' if full['quick'] else ''}.json"
    path: Path = folder / full["device"]["slug"] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps(full, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def read_run(path: Path) -> dict[str, Any]:
    """A checked run.

    Raises:
        InputError: not a result file of this format.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), expected="a result file", got=str(error)) from error
    wrong = problems(record, RUN)
    if wrong:
        raise InputError(str(path), expected="a result file", got="; ".join(wrong[:5]))
    return record
