"""The table of benchmarks, and running some of them as one run or one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from seqtex.outputs import check_writable
from seqtex_core.errors import UnsupportedError
from seqtex_core.registry import Registry

from . import context
from .ceilings import Ceilings, drift, measure_ceilings
from .result import Row, write_run
from .runner import Session, describe
from .timing import free

Benchmark = Callable[[Session], list[Row]]
BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {
        name: f"benchmarks.{name}:run"
        for name in (
            "approximations",
            "attention",
            "block",
            "counts",
            "foreground",
            "fsdp",
            "geo_attention",
            "gpu_tests",
            "kernels",
            "layer",
            "limits",
            "loop",
            "memory",
            "parallel",
            "pipeline",
            "rasterize",
            "rope",
            "scaling",
            "step",
            "train",
            "vae",
            "waterfall",
        )
    },
)
SUMMARIES = {
    "limits": "matrix products, copies and launches at best",
    "counts": "FLOP, traffic and launches of one full-size layer, exact (meta device)",
    "attention": "every implementation, SeqTex shapes and a sweep, forward and backward",
    "geo_attention": "the call over the bare kernel, attention with and without geometry",
    "kernels": "fused norms, rotation, gates: every implementation; what Triton compiles to",
    "rope": "rotary tables, rotation, norm + rotation + geometry",
    "block": "stacks of MUV blocks, released bookkeeping and diffusers' block beside them",
    "layer": "one layer at full size: as released, one resolution for all frames, views only",
    "step": "one whole model call and where its time goes",
    "loop": "all denoising steps of one texture: eager, compiled, as a CUDA graph, as released",
    "waterfall": "a step with one optimisation after the other, predicted and measured",
    "scaling": "views 1 to 8, UV 512 to 4096: counted at full size, measured at a small one",
    "memory": "peak memory by stage and by what is given up, against the plan",
    "train": "a training step of every backbone family, with and without checkpointing",
    "foreground": "a model call on the tokens that touch the surface, over the coverage",
    "fsdp": "a training step of two processes that share the parameters, beside one",
    "gpu_tests": "the tests that need a CUDA device",
    "vae": "images to latents and back: one-frame form and diffusers' own forward",
    "rasterize": "every rasterizer on views and UV space, geometry maps",
    "approximations": "step reuse, fewer steps, fp8 linears: speed and error beside the exact run",
    "parallel": "2, 4, 8 devices: work and exchanges counted, times projected",
    "pipeline": "mesh file to textured file, stage by stage",
}
LIMIT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run_suite(
    names: Sequence[str],
    *,
    device: str,
    quick: bool,
    out: Path,
    threads: int | None = None,
    seed: int = 0,
) -> Path:
    """Run benchmarks in this process and write their one result file; returns its path.

    Args:
        names: of benchmarks.
        device: "cpu" or "cuda".
        quick: small sizes, few repetitions.
        out: root of the results.
        threads: of torch; 1 on CPU by default, so that CPU time means something.
        seed: of all inputs.

    Raises:
        UsageError: an unknown benchmark, or a folder that cannot be written.
        UnsupportedError: the device is not there.
    """
    for name in names:
        BENCHMARKS.get(name)
    where = prepare_device(device, threads=threads)
    check_out(out, where)
    start = measure_ceilings(where, LIMIT_DTYPES, quick=quick)
    record, _ = measured_run(names, where, start, quick=quick, seed=seed)
    return write_run(record, out)


def run_each(
    names: Sequence[str],
    *,
    device: str,
    quick: bool,
    out: Path,
    threads: int | None = None,
    seed: int = 0,
    minutes: float | None = None,
) -> Iterator[Path]:
    """Run benchmarks one after the other, a result file each, written as soon as it is known.

    One that raises becomes a file whose one row says so, and the next begins.

    Args:
        names: of benchmarks.
        device: "cpu" or "cuda".
        quick: small sizes, few repetitions.
        out: root of the results.
        threads: of torch; see :func:`run_suite`.
        seed: of all inputs.
        minutes: begin no further benchmark after this time.

    Yields:
        Paths of the files.

    Raises:
        UsageError: an unknown benchmark, or a folder that cannot be written.
        UnsupportedError: the device is not there.
    """
    begun = time.perf_counter()
    for name in names:
        BENCHMARKS.get(name)
    where = prepare_device(device, threads=threads)
    check_out(out, where)
    limits = measure_ceilings(where, LIMIT_DTYPES, quick=quick)
    for index, name in enumerate(names):
        if minutes is not None and time.perf_counter() - begun > 60 * minutes:
            print(f"{minutes:g} minutes have passed; left out: {', '.join(names[index:])}")
            return
        record, limits = measured_run([name], where, limits, quick=quick, seed=seed, tolerant=True)
        yield write_run(record, out)


def measured_run(
    names: Sequence[str],
    where: torch.device,
    before: Ceilings,
    *,
    quick: bool,
    seed: int,
    tolerant: bool = False,
) -> tuple[dict[str, Any], Ceilings]:
    """The record of a run of some benchmarks, and the limits measured after them.

    Args:
        names: of benchmarks.
        where: the device.
        before: limits measured in this process just before.
        quick: small sizes, few repetitions.
        seed: of all inputs.
        tolerant: a benchmark that raises becomes a row.
    """
    torch.manual_seed(seed)
    start, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    load, state = context.load_average(), context.device_state(where)
    session = Session(device=where, quick=quick, seed=seed, ceilings=before)
    rows: list[Row] = []
    for name in names:
        rows += _tolerated(name, session) if tolerant else BENCHMARKS.get(name)(session)
        print(f"{name} done after {time.perf_counter() - start:.0f} s", flush=True)
    after = measure_ceilings(where, LIMIT_DTYPES, quick=quick)
    record: dict[str, Any] = {
        "name": names[0] if len(names) == 1 else "all",
        "date": date,
        "quick": quick,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "seconds": time.perf_counter() - start,
        "commit": context.commit(),
        "device": context.device_record(where),
        "versions": context.versions(),
        "environment": context.environment(),
        "load_average": {"start": load, "end": context.load_average()},
        "device_state": {"start": state, "end": context.device_state(where)},
        "limits": {
            "start": before.to_json(),
            "end": after.to_json(),
            "drift": drift(before, after),
        },
        "rows": [row.to_json() for row in rows],
    }
    return record, after


def prepare_device(name: str, *, threads: int | None) -> torch.device:
    """The device; torch gets its threads.

    Args:
        name: "cpu" or "cuda".
        threads: of torch; by default one on a CPU.

    Raises:
        UnsupportedError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            "device 'cuda'",
            expected="a CUDA device",
            got="none that torch can use",
            remedy="Use --device cpu.",
        )
    torch.set_num_threads(threads or (1 if name == "cpu" else torch.get_num_threads()))
    return torch.device(name)


def check_out(out: Path, where: torch.device) -> None:
    """Make sure that results of a device can be written, before they are measured.

    Args:
        out: root of the results.
        where: the device.

    Raises:
        UsageError: they cannot.
    """
    check_writable(out / str(context.device_record(where)["slug"]) / "result.json")


def _tolerated(name: str, session: Session) -> list[Row]:
    try:
        return BENCHMARKS.get(name)(session)
    except Exception as error:  # one broken benchmark must not end the others
        row = Row(benchmark=name, case="all of it", implementation="the benchmark itself")
        row = row.failing(error)
        session.say(describe(row))
    free(session.device)
    return [row]
