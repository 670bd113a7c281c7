"""What is faster and not exact: users get what the rows name, and are refused what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import approximations as benchmark
from benchmarks.approximations import EXACT, Subject
from benchmarks.ceilings import Ceilings
from benchmarks.models import ModelSize
from benchmarks.plots_scale import approximations
from benchmarks.runner import Session
from seqtex_core.fp8_linear import reason_fp8_unsupported

LIMITS = Ceilings(
    gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=1e-6, measured=()
)
SMALLEST = ModelSize(
    heads=1, layers=1, ffn_dim=64, view_tokens=2, uv_tokens=4, num_text=4, lora_rank=2
)


@pytest.fixture(scope="module")
def session() -> Session:
    device = torch.device("cpu")
    return Session(device=device, quick=True, seed=0, ceilings=LIMITS, say=lambda line: None)


@pytest.fixture(scope="module")
def shipped(session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Subject]:
    return benchmark._built_in(session, Path(tmp_path_factory.mktemp("shipped")))


def test_the_shipped_model_is_measured_as_it_runs(
    session: Session, shipped: tuple[Subject, Subject]
) -> None:
    """One step: nothing to repeat, and the row says so in the pipeline's own words."""
    own = shipped[0]
    assert own.steps == 1
    found = {c.name: c for c in benchmark._case(own, session).candidates}
    assert found[EXACT].call is not None
    assert found["step reuse, 0.1"].call is None
    assert "several steps" in str(found["step reuse, 0.1"].reason)
    assert not any("instead of" in name for name in found)


def test_a_repeated_step_repeats_the_copy_head(
    session: Session, shipped: tuple[Subject, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share of the time is the larger: a step that repeats the blocks alone saves little."""
    several = shipped[1]
    head = several.model.copy_head
    assert head is not None
    calls = 0
    forward = head.forward

    def counted(*rows: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(*rows, **options)

    monkeypatch.setattr(head, "forward", counted)
    candidate = next(
        c for c in benchmark._case(several, session).candidates if c.name == "step reuse, 0.4"
    )
    assert candidate.call is not None
    assert candidate.check is not None
    calls = 0
    reason, metrics = candidate.check(candidate.call())
    assert reason is None
    share = float(str(metrics["share_of_steps_computed"]))
    assert share < 1.0
    assert calls == round(share * several.steps)
    assert 0.0 < float(str(metrics["relative_l2"])) < 0.5
    assert 20.0 < float(str(metrics["psnr_db"])) < 80.0


def test_errors_of_pictures_are_of_texels_that_the_model_makes(
    shipped: tuple[Subject, Subject],
) -> None:
    """Those that the reference shows are the same in every run: they would only flatter."""
    several = shipped[1]
    assert several.show is not None
    once, twice = (several.generate(several.model, steps) for steps in (1, 2))
    texels = several.show(once).shape[-1]
    assert 0 < texels < 64 * 64
    assert texels == 4 * int((once != twice).any(dim=1).sum())  # the others keep their noise


def test_random_weights_are_measured_in_every_way(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "TINY", SMALLEST)
    found = {c.name: c for c in benchmark._case(benchmark._random(session), session).candidates}
    assert {EXACT, "step reuse, 0.4", "3 steps instead of 6", "fp8 linears"} <= set(found)
    if reason_fp8_unsupported(torch.device("cpu")) is not None:
        assert found.pop("fp8 linears").reason is not None
    for name, candidate in found.items():
        assert candidate.call is not None, candidate.reason
        assert candidate.check is not None
        reason, metrics = candidate.check(candidate.call())
        assert reason is None, name
        assert (metrics["relative_l2"] == 0.0) == (name == EXACT)


def test_every_error_is_drawn() -> None:
    """One step, too, which is much faster and much further away than the others."""
    from matplotlib.figure import Figure

    names = ("exact", "step reuse, 0.1", "8 steps instead of 30", "1 step instead of 30")
    errors = (0.0, 0.01, 0.02, 0.15)
    rows = [
        {
            "case": "random",
            "implementation": name,
            "time": {"n": 3},
            "metrics": {"relative_l2": error, "speedup": 1.0 + 200 * error},
        }
        for name, error in zip((*names, "fp8 linears"), (*errors, 0.002), strict=True)
    ]
    rows[1]["metrics"]["threshold"] = 0.1  # type: ignore[index]
    axes = Figure().subplots(1, 2)
    assert approximations(list(axes), {"approximations": {"rows": rows}})
    drawn = {y for line in axes[0].lines if line.get_marker() != "None" for y in line.get_ydata()}
    assert drawn == {0.01, 0.02, 0.15, 0.002}
    assert {text.get_text().strip() for text in axes[0].texts} == {"0.1", "8", "1", ""}
    assert axes[0].get_xlim()[1] > 31.0
