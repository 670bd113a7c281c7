"""Cases, and how they are run: against fp64 first, then interleaved on the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import accuracy
from .accuracy import reason_beyond
from .ceilings import Ceilings, dtype_name
from .observe import PROFILES, observe
from .result import Accuracy, Row, Scalar, Work
from .timing import FEW, FULL, QUICK, Budget, free, time_interleaved


@dataclass(frozen=True, kw_only=True)
class Session:
    """What every benchmark gets.

    Args:
        device: where to run.
        quick: small sizes and few repetitions.
        seed: of all random inputs.
        ceilings: limits measured in this process.
        say: told about every row.
    """

    device: torch.device
    quick: bool
    seed: int
    ceilings: Ceilings
    say: Callable[[str], None] = print

    @property
    def budget(self) -> Budget:
        """Repetitions."""
        return QUICK if self.quick else FULL

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the seed."""
        return torch.Generator().manual_seed(self.seed)

    def randn(self, *shape: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        """Normal values, drawn on the CPU so that they are equal on every device."""
        return torch.randn(*shape, generator=generator).to(device=self.device, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One implementation of a case.

    Args:
        name: of the implementation.
        call: computes the case from inputs that exist already; ``None`` if it cannot.
        reason: why it cannot; required without a call.
        work: what it has to do, where that differs from the case's.
        factor: how many times the error of plain torch is accepted.
        expected: an fp64 reference of its own, where it computes something else than the others.
        check: instead of a comparison: why an output is wrong, or ``None``, and further numbers.
        metrics: further numbers for its row.
        notes: sentences for its row.
    """

    name: str
    call: Callable[[], Any] | None = None
    reason: str | None = None
    work: Work | None = None
    factor: float = accuracy.FACTOR
    expected: Callable[[], Any] | None = None
    check: Callable[[Any], tuple[str | None, Mapping[str, Scalar]]] | None = None
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if (self.call is None) == (self.reason is None):
            raise ValueError(f"{self.name}: either a call or a reason why there is none")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to compute, and who competes.

    Args:
        benchmark: name of the benchmark.
        name: of the case.
        dtype: of the inputs.
        candidates: the implementations.
        work: what one call has to do.
        parameters: sizes and options.
        expected: the outputs in fp64; ``None`` where there is nothing to compare.
        reference: what ``expected`` is, in words.
        plain: name of the candidate that counts as plain torch.
        few: calls take seconds: three are timed and one is profiled.
        rounds: calls of each that are timed at least, where goals are about a small difference.
        convolves: fp32 convolutions do the work: on CUDA they are in TF32 where torch may.
    """

    benchmark: str
    name: str
    dtype: torch.dtype
    candidates: Sequence[Candidate]
    work: Work
    parameters: Mapping[str, Scalar]
    expected: Callable[[], Any] | None = None
    reference: str = "fp64"
    plain: str | None = None
    few: bool = False
    rounds: int = 0
    convolves: bool = False

    @property
    def depth(self) -> int:
        """Layers that outputs went through one after the other, by the parameters' names."""
        return math.prod(int(self.parameters.get(name) or 1) for name in ("layers", "steps"))

    def plain_limit(self, device: torch.device) -> float:
        """The relative error up to which the plain candidate itself is accepted."""
        tf32 = self.convolves and device.type == "cuda" and torch.backends.cudnn.allow_tf32
        return accuracy.plain_limit(self.dtype, self.depth, tf32=tf32)


def run_case(case: Case, session: Session) -> list[Row]:
    """One row per candidate, in their order.

    Candidates too far from the reference become rows with status "wrong" and are not timed, all
    of them where plain torch itself is too far; those that raise become "failed".
    """
    rows = {c.name: _first_row(case, c) for c in case.candidates}
    found = _check_all(case, session, rows)
    plain = found.get(case.plain or "")
    broken = None if plain is None else reason_beyond(plain, case.plain_limit(session.device))
    for name, distance in found.items():
        rows[name] = _judge(rows[name], distance, plain, case, broken)
    calls = {
        c.name: c.call
        for c in case.candidates
        if c.call is not None and rows[c.name].status == "ok"
    }
    _measure(calls, case, session, rows)
    free(session.device)
    for row in rows.values():
        if row.status != "unsupported":
            session.say(describe(row))
    if refused := [name for name, row in rows.items() if row.status == "unsupported"]:
        session.say(f"{case.benchmark:10} {case.name:36} cannot run here: {', '.join(refused)}")
    return list(rows.values())


def run_cases(cases: Iterable[Case], session: Session) -> list[Row]:
    """The rows of all cases; each case's inputs can be freed before the next is made."""
    rows: list[Row] = []
    for case in cases:
        rows += run_case(case, session)
    return rows


def describe(row: Row) -> str:
    """One line for the terminal."""
    head = f"{row.benchmark:10} {row.case:36} {row.implementation:24} {row.dtype or '':9}"
    if row.status != "ok":
        return f"{head}{row.status}: {row.reason}"
    parts = []
    if row.time is not None:
        parts.append(f"{row.time.median_s * 1e3:10.3f} ms")
    if row.rate is not None:
        parts.append(f"{row.rate.achieved_over_limit:6.1%} of {row.rate.limit}")
    if row.accuracy is not None and row.accuracy.relative is not None:
        parts.append(f"error {row.accuracy.relative:.1e}")
    return head + "  ".join(parts)


def tensors(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order.

    Raises:
        TypeError: anything else in there.
    """
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, Mapping):
        return [t for name in sorted(value) for t in tensors(value[name])]
    if isinstance(value, tuple | list):
        return [t for item in value for t in tensors(item)]
    if value is None:
        return []
    raise TypeError(f"not a tensor: {type(value).__name__}")


def _first_row(case: Case, candidate: Candidate) -> Row:
    return Row(
        benchmark=case.benchmark,
        case=case.name,
        implementation=candidate.name,
        status="ok" if candidate.call is not None else "unsupported",
        reason=candidate.reason,
        dtype=dtype_name(case.dtype),
        parameters=case.parameters,
        work=candidate.work or case.work,
        metrics=dict(candidate.metrics),
        notes=tuple(candidate.notes),
    )


def _check_all(case: Case, session: Session, rows: dict[str, Row]) -> dict[str, Accuracy]:
    """Distances of all candidates that run; those that raise are marked in ``rows``."""
    shared: list[Tensor] | None = None
    found: dict[str, Accuracy] = {}
    for candidate in case.candidates:
        if candidate.call is None:
            continue
        try:
            if candidate.expected is not None:
                expected = tensors(candidate.expected())
            elif candidate.check is not None or case.expected is None:
                rows[candidate.name] = _checked(rows[candidate.name], candidate)
                continue
            else:
                expected = shared = tensors(case.expected()) if shared is None else shared
            accuracy.poison(session.device, sum(t.numel() for t in expected) * case.dtype.itemsize)
            outputs = [t.clone() for t in tensors(candidate.call())]
            again = tensors(candidate.call())
            found[candidate.name] = accuracy.compare(
                outputs, again, expected, reference=case.reference
            )
        except Exception as error:  # one broken implementation must not end the others
            rows[candidate.name] = rows[candidate.name].failing(error)
        if rows[candidate.name].status == "failed":
            free(session.device)
    return found


def _measure(
    calls: Mapping[str, Callable[[], Any]], case: Case, session: Session, rows: dict[str, Row]
) -> None:
    """Times and profiles into ``rows``; calls that raise are marked there and left out."""
    budget = FEW if case.few else session.budget
    if not session.quick:
        budget = replace(budget, least=max(budget.least, case.rounds))

    def failed(name: str, error: Exception) -> None:
        rows[name] = rows[name].failing(error)

    timings = time_interleaved(calls, session.device, budget, on_failure=failed) if calls else {}
    for name, timing in timings.items():
        profiles = 1 if case.few or session.on_cuda else PROFILES
        try:
            seen = observe(calls[name], session.device, profiles=profiles)
        except Exception as error:
            failed(name, error)
        if rows[name].status == "failed":
            free(session.device)
            continue
        rows[name] = replace(
            rows[name],
            time=timing,
            rate=session.ceilings.rate(
                rows[name].work or case.work, timing, dtype_name(case.dtype)
            ),
            memory=seen.memory,
            kernels=seen.kernels,
        ).with_metrics(**{f"share of {kind}": share for kind, share in seen.shares.items()})


def _checked(row: Row, candidate: Candidate) -> Row:
    """The row after a first call, with the verdict of the candidate's own check."""
    assert candidate.call is not None
    result = candidate.call()
    if candidate.check is None:
        return row
    reason, metrics = candidate.check(result)
    status = row.status if reason is None else "wrong"
    return replace(row, status=status, reason=reason).with_metrics(**metrics)


def _judge(
    row: Row, found: Accuracy, plain: Accuracy | None, case: Case, broken: str | None
) -> Row:
    """The row with its verdict: on its own distance, and on what it is judged by."""
    factor = next(c.factor for c in case.candidates if c.name == row.implementation)
    full = accuracy.beside_plain(found, plain, case.plain)
    reason = accuracy.reason_wrong(full, case.dtype, factor=factor)
    if reason is None and broken is not None:
        own = row.implementation == case.plain
        reason = broken if own else f"judged by {case.plain}, which is wrong: {broken}"
    return replace(
        row, accuracy=full, status=row.status if reason is None else "wrong", reason=reason
    )
