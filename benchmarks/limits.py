"""``limits``: what the machine can do: matrix products, copies, launches."""

from __future__ import annotations

from dataclasses import replace

import torch

from .ceilings import LAUNCHES, Ceilings, Measured, measure_ceilings
from .result import Row
from .runner import Session, describe

DTYPES = {
    "cpu": (torch.float32, torch.bfloat16, torch.float16, torch.float64),
    "cuda": (torch.float32, torch.bfloat16, torch.float16),
}


def run(session: Session) -> list[Row]:
    """One row per measurement, with its share of the best one of its kind."""
    ceilings = measure_ceilings(session.device, DTYPES[session.device.type], quick=session.quick)
    rows = [_row(measured, ceilings) for measured in ceilings.measured]
    for row in rows:
        session.say(describe(row))
    return rows


def _row(measured: Measured, ceilings: Ceilings) -> Row:
    if measured.kind == "gemm":
        p = measured.parameters
        case = f"gemm {p['m']}x{p['k']}x{p['n']}"
    else:
        case = measured.kind
    row = Row(
        benchmark="limits",
        case=case,
        implementation={"gemm": "torch.mm", "copy": "Tensor.copy_", "launch": "Tensor.add_"}[
            measured.kind
        ],
        dtype=measured.dtype,
        parameters=measured.parameters,
        time=measured.time,
        work=measured.work,
    )
    if measured.kind == "launch":
        return row.with_metrics(launch_us=measured.time.median_s / LAUNCHES * 1e6)
    return replace(row, rate=ceilings.rate(measured.work, measured.time, measured.dtype))
