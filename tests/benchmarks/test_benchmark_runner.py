"""The runner: wrong, broken and absent implementations become rows that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import released, runner, step
from benchmarks.accuracy import compare, reason_wrong
from benchmarks.ceilings import Ceilings
from benchmarks.models import ModelSize
from benchmarks.observe import Observed, kind_of_work, observe
from benchmarks.result import Memory, Row, Work
from benchmarks.runner import Candidate, Case, Session, run_case
from benchmarks.suite import BENCHMARKS, SUMMARIES
from benchmarks.timing import Budget, spread, time_interleaved

CPU = torch.device("cpu")
LIMITS = Ceilings(
    gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e6, launch_s=1e-6, measured=()
)


def _session() -> Session:
    return Session(device=CPU, quick=True, seed=0, ceilings=LIMITS, say=lambda line: None)


def _run(candidates: Sequence[Candidate], x: Tensor) -> dict[str, Row]:
    case = Case(
        benchmark="test",
        name="double",
        dtype=torch.float32,
        candidates=candidates,
        work=Work(flop=float(x.numel()), flop_formula="one per element"),
        parameters={"n": x.numel()},
        expected=lambda: 2 * x.double(),
        plain="plain",
    )
    return {row.implementation: row for row in run_case(case, _session())}


def test_each_outcome_is_a_row() -> None:
    x = torch.randn(1000)

    def broken() -> Tensor:
        raise RuntimeError("no such kernel\nsecond line")

    rows = _run(
        [
            Candidate(name="plain", call=lambda: x + x),
            Candidate(name="off", call=lambda: 2.001 * x),
            Candidate(name="nan", call=lambda: torch.full_like(x, torch.nan)),
            Candidate(name="broken", call=broken),
            Candidate(name="absent", reason="not installed"),
            Candidate(name="random", call=lambda: 2 * x * (1 + 1e-9 * torch.rand(()))),
        ],
        x,
    )
    assert [row.status for row in rows.values()] == [
        "ok",
        "wrong",
        "wrong",
        "failed",
        "unsupported",
        "ok",
    ]
    assert "5.00e-04" in str(rows["off"].reason)  # 0.001 / 2
    assert "NaN" in str(rows["nan"].reason)
    assert rows["broken"].reason == "RuntimeError: no such kernel"
    assert all((row.time is not None) == (row.status == "ok") for row in rows.values())
    plain = rows["plain"]
    assert plain.rate is not None
    assert plain.time is not None
    assert plain.rate.limit == "gemm float32"
    assert plain.rate.achieved_over_limit == pytest.approx(1e-6 / plain.time.median_s)
    assert plain.kernels == ("aten::add",)
    assert plain.accuracy is not None
    assert plain.accuracy.repeatable


@pytest.mark.parametrize("lasts", [3, 5, 7])
def test_one_that_raises_later_loses_only_its_own_row(
    lasts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls are compared, one warms up, three are timed, three are profiled."""
    budget = Budget(warmup=1, least=3, most=3, seconds=0.0)
    monkeypatch.setattr(Session, "budget", budget)
    x, calls = torch.randn(1000), 0

    def full() -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= lasts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return x + x

    names = ("plain", "full", "other")
    rows = _run([Candidate(name=n, call=full if n == "full" else lambda: x + x) for n in names], x)
    assert [row.status for row in rows.values()] == ["ok", "failed", "ok"]
    assert rows["full"].reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert calls == lasts, "it is left alone afterwards"
    for name, row in rows.items():
        assert (row.time is not None) == (name != "full")
    assert rows["plain"].time is not None
    assert rows["plain"].time.n == 3


def test_a_call_that_raises_ends_a_timing_of_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"x": lambda: 1 // 0}, CPU, Budget())


def test_a_broken_baseline_is_wrong_and_so_is_what_it_judges() -> None:
    x = torch.randn(1000)

    def rows(factor: float) -> dict[str, Row]:
        return _run(
            [
                Candidate(name="right", call=lambda: 2 * x),
                Candidate(name="plain", call=lambda: factor * x),
                Candidate(name="nan", call=lambda: torch.full_like(x, torch.nan)),
                Candidate(name="absent", reason="not installed"),
            ],
            x,
        )

    assert [row.status for row in rows(2.0).values()] == ["ok", "ok", "wrong", "unsupported"]
    found = rows(2.01)
    assert [row.status for row in found.values()] == ["wrong", "wrong", "wrong", "unsupported"]
    assert str(found["plain"].reason).startswith("relative error 5.00e-03 against fp64")
    assert str(found["right"].reason).startswith("judged by plain, which is wrong: relative error")
    assert "NaN" in str(found["nan"].reason)
    assert not any(row.time for row in found.values())


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.001), (torch.bfloat16, 1.5)])
def test_a_step_whose_released_form_is_broken_says_so(
    dtype: torch.dtype, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, they are 5e-5 and 3e-2 away of which 3e-6 and 1.1e-2 may be roundings."""
    size = ModelSize(
        heads=1, layers=2, ffn_dim=256, view_tokens=4, uv_tokens=8, num_text=4, lora_rank=2
    )

    def statuses() -> list[str]:
        session = _session()
        return [row.status for row in run_case(step._case(size, dtype, session), session)]

    nothing = Observed(
        kernels=(), shares={}, memory=Memory(peak_bytes=0.0, reserved_bytes=None, meaning="")
    )
    monkeypatch.setattr(runner, "observe", lambda call, device, *, profiles: nothing)  # slow
    monkeypatch.setattr(Session, "budget", Budget(warmup=0, least=1, most=1, seconds=0.0))
    assert statuses() == ["ok"] * 3
    whole = released._feed_forward

    def broken(block: Any, x: Tensor, table: tuple[Tensor, ...]) -> Tensor:
        return x + factor * (whole(block, x, table) - x)

    monkeypatch.setattr(released, "_feed_forward", broken)
    assert statuses() == ["wrong"] * 3


def test_the_limit_of_a_baseline_grows_with_the_root_of_the_depth() -> None:
    case = Case(
        benchmark="test",
        name="deep",
        dtype=torch.float32,
        candidates=[],
        work=Work(),
        parameters={"layers": 8, "steps": 2, "family": "wan"},
        convolves=True,
    )
    flat = replace(case, parameters={})
    assert (case.depth, flat.depth) == (16, 1)
    assert case.plain_limit(CPU) == pytest.approx(4 * flat.plain_limit(CPU))
    for dtype, epsilons in ((torch.float32, 19.9), (torch.bfloat16, 1.03)):
        limit = replace(flat, dtype=dtype).plain_limit(CPU)
        assert limit == pytest.approx(epsilons * torch.finfo(dtype).eps, rel=0.01)
    # cuDNN's fp32 convolutions round like fp16
    on_cuda = flat.plain_limit(torch.device("cuda"))
    assert on_cuda == replace(flat, dtype=torch.float16).plain_limit(CPU)


def test_every_benchmark_has_a_summary_and_can_be_imported() -> None:
    assert set(BENCHMARKS.names()) == set(SUMMARIES)
    assert all(callable(BENCHMARKS.get(name)) for name in BENCHMARKS)


def test_the_nearer_limit_counts() -> None:
    timing = time_interleaved({"x": lambda: None}, CPU, Budget(least=1, most=1))["x"]
    both = Work(flop=1e3, flop_formula="f", bytes=1e3, bytes_formula="b")
    assert LIMITS.rate(both, timing, "float32").limit == "copy"  # 1e-6 s against 1e-3 s
    assert LIMITS.rate(Work(flop=1.0), timing, "bfloat16").limit == "gemm float32"
    with pytest.raises(ValueError, match="FLOP or bytes"):
        LIMITS.rate(Work(), timing, "float32")


def test_calls_take_turns_and_warm_up() -> None:
    seen: list[str] = []
    budget = Budget(warmup=1, least=4, most=4, seconds=0.0)
    calls = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    timings = time_interleaved(calls, CPU, budget)
    assert "".join(seen) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert timings["a"].n == 4


def test_spread_is_of_order_statistics() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.median_s, found.min_s, found.p10_s, found.p90_s) == (3.0, 1.0, 1.4, 4.6)


def test_twice_the_plain_error_is_the_limit() -> None:
    exact = [torch.ones(100, dtype=torch.float64)]

    def judged(error: float, plain: float | None) -> str | None:
        found = compare([exact[0] * (1 + error)], [exact[0]], exact, reference="ones")
        values = {**vars(found), "plain_relative": plain}
        return reason_wrong(type(found)(**values), torch.float32)

    assert judged(1.9e-6, 1e-6) is None
    assert judged(2.1e-6, 1e-6) is not None
    assert judged(5e-8, 0.0) is None  # half an epsilon is luck
    assert judged(2e-7, 0.0) is not None
    assert judged(9e-7, None) is None
    assert judged(1e-6, None) is not None


def test_shapes_must_fit() -> None:
    one = [torch.ones(3)]
    with pytest.raises(ValueError, match="expected"):
        compare(one, one, [torch.ones(4, dtype=torch.float64)], reference="x")


def test_observed_memory_is_the_peak_of_what_is_alive_at_once() -> None:
    x = torch.zeros(1 << 16)  # 256 KiB

    def call() -> Tensor:
        y = x + 1  # one alive
        y = y + 1  # two alive while it is made
        return y.sum()

    found = observe(call, CPU)
    assert found.memory.peak_bytes == pytest.approx(2 * x.nbytes, rel=0.01)
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_kinds_of_work() -> None:
    assert kind_of_work("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert kind_of_work("aten::addmm") == "matrix"
    assert kind_of_work("aten::native_layer_norm") == "norm"
    assert kind_of_work("aten::_to_copy") == "copy and cast"
    assert kind_of_work("aten::mul") == "pointwise"
