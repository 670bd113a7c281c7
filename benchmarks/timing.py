"""Timing of calls: warm-up, synchronisation, interleaved rounds, quantiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .result import Spread, Timing

Call = Callable[[], object]
OnFailure = Callable[[str, Exception], None]
_FLUSH_BYTES = 256 << 20  # more than the L2 of any current card


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many calls are timed.

    Args:
        warmup: calls of each before the clock.
        least: timed calls of each, at least.
        most: at most.
        seconds: stop between the two once this much time per implementation has passed.
    """

    warmup: int = 2
    least: int = 5
    most: int = 50
    seconds: float = 1.0


QUICK = Budget(warmup=1, least=3, most=15, seconds=0.15)
FULL = Budget(warmup=2, least=5, most=60, seconds=1.5)
FEW = Budget(warmup=0, least=3, most=3, seconds=0.0)
"""Of calls that take seconds, after they ran for the comparison."""


def time_interleaved(
    calls: Mapping[str, Call],
    device: torch.device,
    budget: Budget,
    *,
    on_failure: OnFailure | None = None,
) -> dict[str, Timing]:
    """Timings of several calls, taken in turns so that drift and other load hit all alike.

    Every other round runs in reverse order. On CPU the clock is the CPU time of the process if
    torch runs one thread, as other processes then hardly disturb it, and the wall clock otherwise.
    On CUDA it is the device's events, with the L2 cache flushed before each call.

    Args:
        calls: what to time, by name; inputs must exist already.
        device: where they run.
        budget: how often.
        on_failure: told about a call that raises, which is left out from then on and has no timing;
            without it what the call raises ends all.
    """
    alive = dict(calls)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}

    def attempt(name: str, action: Callable[[str], None]) -> None:
        try:
            action(name)
            return
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(name, error)
        del alive[name]
        free(device)  # not before: the error holds what its frames held

    def warm_up(name: str) -> None:
        for _ in range(budget.warmup):
            calls[name]()
        _synchronize(device)

    for name in calls:
        attempt(name, warm_up)
    sample = _cuda_sampler(device) if device.type == "cuda" else _cpu_sample

    def take(name: str) -> None:
        samples[name].append(sample(calls[name]))

    start = time.perf_counter()
    for turn in range(budget.most):
        for name in list(alive) if turn % 2 == 0 else list(reversed(alive)):
            attempt(name, take)
        enough = time.perf_counter() - start > budget.seconds * len(alive)
        if turn + 1 >= budget.least and enough:
            break
    return {name: _timing(samples[name], device, budget) for name in alive}


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more, for what runs next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _cpu_sample(call: Call) -> tuple[float, float]:
    """CPU time of all threads and wall time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def _cuda_sampler(device: torch.device) -> Callable[[Call], tuple[float, float]]:
    scratch = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)

    def sample(call: Call) -> tuple[float, float]:
        first = torch.cuda.Event(enable_timing=True)
        last = torch.cuda.Event(enable_timing=True)
        scratch.zero_()  # flushes L2, and keeps the device busy while the call is queued
        wall = time.perf_counter()
        first.record()
        call()
        last.record()
        torch.cuda.synchronize(device)
        return first.elapsed_time(last) / 1e3, time.perf_counter() - wall

    return sample


def _timing(samples: Sequence[tuple[float, float]], device: torch.device, budget: Budget) -> Timing:
    wall = spread([s[1] for s in samples])
    on_cuda = device.type == "cuda"
    use_wall = not on_cuda and torch.get_num_threads() > 1
    main = wall if use_wall else spread([s[0] for s in samples])
    return Timing(
        clock="cuda_event" if on_cuda else "wall" if use_wall else "cpu",
        median_s=main.median_s,
        p10_s=main.p10_s,
        p90_s=main.p90_s,
        min_s=main.min_s,
        n=len(samples),
        warmup=budget.warmup,
        cache="cold" if on_cuda else "warm",
        wall=wall,
    )


def spread(values: Sequence[float]) -> Spread:
    """Median, tenth and ninetieth percentile (linear between samples) and minimum.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a spread needs at least one value")
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    p10, median, p90 = torch.quantile(
        ordered, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ).tolist()
    return Spread(median_s=median, p10_s=p10, p90_s=p90, min_s=float(ordered[0]))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
