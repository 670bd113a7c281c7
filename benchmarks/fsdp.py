"""``fsdp``: a training step of two processes that share every parameter, beside one process."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from seqtex_core.attention import choose_attention

from . import accuracy
from .ceilings import dtype_name
from .result import Memory, Row, Timing, Work
from .runner import Session, describe
from .timing import spread
from .train import TrainingStep, step_flop, training_model
from .train_sizes import QUICK_SIZE, SMALL, WIDE, TrainSize, family_entry

ROOT = Path(__file__).resolve().parents[1]
FAMILY = "wan"
ONE, SHARDED = "one process", "FSDP2, two processes"
Way = tuple[str, int, bool]
WAYS: tuple[Way, ...] = (
    (ONE, 1, False),
    (f"{ONE}, checkpointing", 1, True),
    (SHARDED, 2, False),
    (f"{SHARDED}, checkpointing", 2, True),
)
"""Name, number of processes, whether blocks are computed again."""
PROCESS = "benchmarks.fsdp_process"
LONGEST_S = 500.0


def run(session: Session) -> list[Row]:
    """Rows of one process and of two, without checkpointing and with it."""
    size = replace(WIDE if session.on_cuda else QUICK_SIZE if session.quick else SMALL, batch=2)
    rows = beside_one(list(process_rows(size, session)))
    for row in rows:
        session.say(f"{describe(row)}{_summary(row)}")
    return rows


def process_rows(
    size: TrainSize, session: Session, *, ways: Sequence[Way] | None = None
) -> Iterator[Row]:
    """A row per way of training; the batch is the same, two processes take half of it each.

    Args:
        size: of model and batch.
        session: device and repetitions.
        ways: all by default.
    """
    entry = family_entry(FAMILY, size)
    assert entry is not None
    step = TrainingStep(
        training_model(entry, size, device=session.device, seed=session.seed),
        size,
        seed=session.seed,
    )
    work = Work(flop=float(step_flop(step)), flop_formula="training_flop")
    exact = _exact(step, session.seed)
    del step
    for name, processes, checkpointing in WAYS if ways is None else ways:
        row = Row(
            benchmark="fsdp",
            case=f"{FAMILY}, {size.layers} x d={size.dim}, {size.num_tokens} tokens",
            implementation=name,
            dtype=dtype_name(torch.float32),
            parameters={**size.parameters(), "processes": processes},
            work=work,
        )
        if session.on_cuda and torch.cuda.device_count() < processes:
            why = f"needs {processes} CUDA devices, not {torch.cuda.device_count()}"
            yield replace(row, status="unsupported", reason=why)
            continue
        yield _measured(row, size, session, exact, checkpointing=checkpointing)


def beside_one(rows: Sequence[Row]) -> list[Row]:
    """Rows with speed (fastest steps) and memory per process over those of one process alike."""
    alone = {row.implementation: row for row in rows if row.implementation.startswith(ONE)}
    made = []
    for row in rows:
        one = alone.get(row.implementation.replace(SHARDED, ONE))
        if row.time is None or one is None or one.time is None or one is row:
            made.append(row)
            continue
        mine, theirs = (int(r.metrics["total_bytes"] or 0) for r in (row, one))
        made.append(
            row.with_metrics(speedup=one.time.min_s / row.time.min_s, memory_over_one=mine / theirs)
        )
    return made


def _measured(
    row: Row, size: TrainSize, session: Session, exact: dict[str, Tensor], *, checkpointing: bool
) -> Row:
    processes = int(row.parameters["processes"] or 1)
    sharded = row.implementation.startswith(SHARDED)
    job = {
        "size": vars(size),
        "family": FAMILY,
        "seed": session.seed,
        "device": session.device.type,
        "checkpointing": checkpointing,
        "sharded": sharded,
        "steps": 3 if session.quick else 8,
    }
    with tempfile.TemporaryDirectory() as name:
        failure = start_processes(job, Path(name), processes)
        if failure is not None:
            return replace(row, status="failed", reason=failure)
        found = [
            json.loads((Path(name) / f"{rank}.json").read_text("utf-8"))
            for rank in range(processes)
        ]
        gradients = load_file(Path(name) / "gradients.safetensors")
    names = sorted(exact)
    seen = accuracy.compare(
        [gradients[n] for n in names],
        [gradients[n] for n in names],
        [exact[n] for n in names],
        reference="gradients of the whole batch in one process, in fp64",
    )
    reason = accuracy.reason_wrong(seen, torch.float32)
    if sharded and any(one["dtensors"] < one["parameters"] for one in found):
        reason = "some parameters are not DTensors"
    if reason is not None:
        return replace(row, status="wrong", reason=reason, accuracy=seen)
    return _with_figures(replace(row, accuracy=seen), found, size, session)


def _with_figures(row: Row, found: Sequence[Any], size: TrainSize, session: Session) -> Row:
    """The row with times (the slower process of every step) and memory (the larger process's)."""
    wall = spread([max(times) for times in zip(*(one["wall_s"] for one in found), strict=True)])
    timing = Timing(
        clock="wall", **vars(wall), n=len(found[0]["wall_s"]), warmup=1, cache="warm", wall=wall
    )
    largest = max(found, key=lambda one: one["peak_bytes"] + one["weights_bytes"])
    held = {key: largest[key] for key in ("weights_bytes", "moments_bytes", "gradients_bytes")}
    sharded = min(100 * one["dtensors"] / one["parameters"] for one in found)
    assert row.work is not None
    return replace(
        row,
        time=timing,
        rate=session.ceilings.rate(row.work, timing, "float32"),
        memory=Memory(
            peak_bytes=largest["peak_bytes"],
            reserved_bytes=None,
            meaning="per process, of a step: torch's allocator, beyond weights and moments",
        ),
    ).with_metrics(
        **held,
        total_bytes=held["weights_bytes"] + held["moments_bytes"] + largest["peak_bytes"],
        samples_per_s=size.batch / wall.median_s,
        tokens_per_s=size.batch * size.num_tokens / wall.median_s,
        cpu_s_per_process=max(one["cpu_s"] for one in found),
        dtensor_percent=sharded,
    )


def start_processes(job: dict[str, Any], folder: Path, count: int) -> str | None:
    """Run the processes of ``fsdp_process`` to their end; returns why they failed, or ``None``.

    Args:
        job: what they do.
        folder: where their results go.
        count: how many.
    """
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    paths = [str(ROOT), str(ROOT / "backbones"), str(ROOT / "geometry")]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", PROCESS, str(folder)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=LONGEST_S)[1] for process in processes]
    except subprocess.TimeoutExpired:
        return f"still running after {LONGEST_S:.0f} s"
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        lines = [line for text in errors for line in text.strip().splitlines()[-1:]]
        return "; ".join(lines) or "a process failed without a word"
    return None


def _exact(step: TrainingStep, seed: int) -> dict[str, Tensor]:
    wide = copy.deepcopy(step.model).double()
    wide.attend = choose_attention("sdpa")
    return TrainingStep(wide, step.size, seed=seed)(checkpointing=True)


def _summary(row: Row) -> str:
    m = row.metrics
    if "memory_over_one" not in m:
        return ""
    return f"  {m['speedup']:.2f}x, {m['memory_over_one']:.0%} of one process's memory"
