"""The table of benchmarks, and running some of them as one run with one result file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from seqtex_core.errors import UnsupportedError
from seqtex_core.registry import Registry

from . import context
from .ceilings import drift, measure_ceilings
from .result import Row, write_run
from .runner import Session

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
            "geo_attention",
            "kernels",
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
    "step": "one whole model call and where its time goes",
    "loop": "all denoising steps of one texture: eager, compiled, as a CUDA graph, as released",
    "waterfall": "a step with one optimisation after the other, predicted and measured",
    "scaling": "views 1 to 8, UV 512 to 4096: counted at full size, measured at a small one",
    "memory": "peak memory by stage and by what is given up, against the plan",
    "train": "a training step of every backbone family, with and without checkpointing",
    "foreground": "a model call on the tokens that touch the surface, over the coverage",
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
        UsageError: an unknown benchmark.
        UnsupportedError: the device is not there.
    """
    runs = [(name, BENCHMARKS.get(name)) for name in names]
    where = _device(device)
    torch.set_num_threads(threads or (1 if where.type == "cpu" else torch.get_num_threads()))
    torch.manual_seed(seed)
    start, date = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    load, state = context.load_average(), context.device_state(where)
    before = measure_ceilings(where, LIMIT_DTYPES, quick=quick)
    session = Session(device=where, quick=quick, seed=seed, ceilings=before)
    rows: list[Row] = []
    for name, benchmark in runs:
        rows += benchmark(session)
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
    return write_run(record, out)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            "device 'cuda'",
            expected="a CUDA device",
            got="none that torch can use",
            remedy="Use --device cpu.",
        )
    return torch.device(name)
