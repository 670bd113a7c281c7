"""The attention benchmark: what it measures, and how far from fp64 gradients may be."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import attention, runner
from benchmarks.attention import Shape, shapes
from benchmarks.ceilings import Ceilings
from benchmarks.observe import Observed
from benchmarks.result import Memory
from benchmarks.runner import Session, run_case
from benchmarks.timing import Budget
from seqtex_core.attention import ATTENTION

LIMITS = Ceilings(
    gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=1e-6, measured=()
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SEQTEX = (("mv self", 4096, 4096), ("uv self", 4096, 8192), ("cross", 8192, 512))


def session(*, device: str = "cpu", quick: bool = False) -> Session:
    return Session(
        device=torch.device(device), quick=quick, seed=0, ceilings=LIMITS, say=lambda line: None
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_shapes_dtypes_head_dims_and_directions_are_measured(device: str) -> None:
    made = shapes(session(device=device))
    found = {(s.name, s.queries, s.keys, s.dtype, s.head_dim, s.backward) for s in made}
    for (name, queries, keys), *options in product(SEQTEX, DTYPES, (64, 128), (False, True)):
        assert (name, queries, keys, *options) in found
    assert {s.heads * s.head_dim for s in made} == {12 * 128 if device == "cuda" else 2 * 128}
    swept = {(s.queries, s.backward) for s in made if s.name == "sweep"}
    assert swept == set(product((1024, 2048, 4096, 8192, 16384), (False, True)))


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of each, unobserved."""
    nothing = Observed(
        kernels=(), shares={}, memory=Memory(peak_bytes=0.0, reserved_bytes=None, meaning="")
    )
    monkeypatch.setattr(runner, "observe", lambda call, device, *, profiles: nothing)  # slow
    monkeypatch.setattr(Session, "budget", Budget(warmup=0, least=1, most=1, seconds=0.0))


@pytest.mark.parametrize("backward", [False, True])
def test_packed_objects_are_compared_one_by_one(
    monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    hurry(monkeypatch)
    few = {name: ATTENTION.get(name) for name in ("reference", "sdpa", "sdpa_varlen")}
    monkeypatch.setattr(attention, "implementations", lambda: few)
    case = attention.packed_case(session(quick=True), backward=backward)
    assert case.parameters["objects"] == 4
    assert case.parameters["auto"] == "sdpa"
    rows = {row.implementation: row for row in run_case(case, session(quick=True))}
    assert (rows["reference"].status, rows["sdpa"].status) == ("ok", "ok")
    assert rows["sdpa_varlen"].status == "unsupported"
    assert "CUDA" in str(rows["sdpa_varlen"].reason)


def statuses(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of gradients where many queries read few keys, in bf16."""
    hurry(monkeypatch)
    shape = Shape(
        name="cross",
        queries=8192,
        keys=64,
        heads=1,
        head_dim=16,
        backward=True,
        dtype=torch.bfloat16,
    )
    rows = run_case(attention._case(shape, session(quick=True)), session(quick=True))
    return {row.implementation: row.status for row in rows}


def test_sums_over_many_queries_in_16_bits_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = statuses(monkeypatch)
    assert [found[name] for name in ("reference", "sdpa", "sdpa_flash")] == ["ok"] * 3


def test_gradients_that_are_two_percent_off_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = type(ATTENTION.get("sdpa"))
    attend = kind.attend

    def off(self: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        values = v * 1.0
        if values.requires_grad:
            values.register_hook(lambda gradient: 1.02 * gradient)
        out: Tensor = attend(self, q, k, values, *rest)
        return out

    monkeypatch.setattr(kind, "attend", off)
    found = statuses(monkeypatch)
    assert (found["reference"], found["sdpa"]) == ("ok", "wrong")
