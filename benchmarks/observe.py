"""What a call really ran, where its time went and what it allocated, seen by torch's profiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from .result import Memory

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes a line per run to stderr otherwise
MIN_SHARE = 0.05
PROFILES = 3
"""Profiled calls; of each kernel the least time counts, so that other load does not show."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attention", "flash", "fmha", "sage"),
    "matrix": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "gemm", "cutlass", "nvjet"),
    "convolution": ("conv", "implicit_gemm"),
    "norm": ("norm", "aten::rsqrt", "aten::mean", "aten::pow"),
    "copy and cast": ("copy", "aten::cat", "memcpy", "memset", "aten::fill_", "CatArray"),
}
"""Kinds of work by parts of a kernel's name, the first that fits; the rest is "pointwise"."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A profiled call.

    Args:
        kernels: kernels (CUDA) or operators (CPU) with at least 5% of the time, longest first.
        shares: share of the time by kind of work, see ``GROUPS``; adds up to 1.
        memory: peak of what the call allocated.
    """

    kernels: tuple[str, ...]
    shares: Mapping[str, float]
    memory: Memory


def observe(
    call: Callable[[], object], device: torch.device, *, profiles: int = PROFILES
) -> Observed:
    """Profile a call a few times, after it has run before.

    Args:
        call: what to run.
        device: where it runs.
        profiles: how often.
    """
    on_cuda, before = device.type == "cuda", 0
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    seen = [_profile(call, device) for _ in range(profiles)]
    samples = [_self_times(one.key_averages(), on_cuda=on_cuda) for one in seen]
    names = set.intersection(*(set(sample) for sample in samples))
    times = {name: min(sample[name] for sample in samples) for name in names}
    total = sum(times.values())
    memory = _cuda_memory(device, before) if on_cuda else _cpu_memory(seen[0])
    ranked = sorted(times, key=lambda name: -times[name])
    return Observed(
        kernels=tuple(name for name in ranked if times[name] >= MIN_SHARE * total),
        shares=_shares(times, total),
        memory=memory,
    )


def peak_of(call: Callable[[], object], device: torch.device) -> Memory:
    """Peak of what one call allocates, after it has run before.

    Args:
        call: what to run.
        device: where it runs.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return _cuda_memory(device, before)
    return _cpu_memory(_profile(call, device))


def _cuda_memory(device: torch.device, before: int) -> Memory:
    return Memory(
        peak_bytes=float(torch.cuda.max_memory_allocated(device) - before),
        reserved_bytes=float(torch.cuda.max_memory_reserved(device)),
        meaning="torch's CUDA allocator, beyond what was allocated before the call",
    )


def _cpu_memory(seen: profile) -> Memory:
    return Memory(
        peak_bytes=float(_peak_of_allocations(seen)),
        reserved_bytes=None,
        meaning="torch's CPU allocator, beyond what was allocated before the call",
    )


def _profile(call: Callable[[], object], device: torch.device) -> profile:
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    seen: profile = profile(activities=activities, profile_memory=not on_cuda)
    with seen:
        call()
        if on_cuda:
            torch.cuda.synchronize(device)
    return seen


def kind_of_work(kernel: str) -> str:
    """The entry of ``GROUPS`` that a kernel's name belongs to, or "pointwise"."""
    for group, parts in GROUPS.items():
        if any(part.lower() in kernel.lower() for part in parts):
            return group
    return "pointwise"


def _self_times(averages: Iterable[Any], *, on_cuda: bool) -> dict[str, float]:
    """Microseconds per kernel (CUDA) or operator (CPU) itself, without what it called."""
    times: dict[str, float] = {}
    for event in averages:
        if event.key.startswith("[") or event.key.startswith("ProfilerStep"):
            continue
        is_kernel = event.device_type == DeviceType.CUDA
        if on_cuda != is_kernel:
            continue
        spent = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        if spent > 0:
            times[event.key] = times.get(event.key, 0.0) + spent
    return times


def _shares(times: Mapping[str, float], total: float) -> dict[str, float]:
    shares: dict[str, float] = {}
    for name, spent in times.items() if total > 0 else ():
        group = kind_of_work(name)
        shares[group] = shares.get(group, 0.0) + spent / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _peak_of_allocations(seen: profile) -> int:
    """Greatest sum of allocated less freed bytes over the recorded allocator events."""
    assert seen.profiler is not None
    results: Any = seen.profiler.kineto_results
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak
