"""The foreground benchmark: which tokens it keeps, its formulas, and its comparison."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import foreground, foreground_shipped
from benchmarks.block import QUICK_SIZE
from benchmarks.ceilings import Ceilings
from benchmarks.foreground import (
    DENSE,
    OF_TYPICAL,
    TYPICAL,
    _compared,
    _full_layer,
    _step_flop,
    foreground_work,
    kept_tokens,
)
from benchmarks.formulas import LayerSize, layer_flop
from benchmarks.models import ModelSize
from benchmarks.result import Row, Spread, Timing, Work
from benchmarks.runner import Session, run_case
from benchmarks.step import step_work
from seqtex_core.frames import FrameGroup, Grid, TokenLayout

SIZE = ModelSize(heads=1, layers=1, ffn_dim=64, view_tokens=4, uv_tokens=8, num_text=3)


def test_a_step_on_all_tokens_is_the_step_benchmarks_step() -> None:
    layer = QUICK_SIZE.layer
    every = {"views": layer.num_mv, "texture": layer.num_uv}
    assert (
        foreground_work(QUICK_SIZE, every, itemsize=4).flop
        == step_work(QUICK_SIZE, itemsize=4).flop
    )


def test_a_typical_objects_layer_needs_a_third_at_full_size() -> None:
    kept = LayerSize(num_mv=round(0.21 * 4096), num_uv=round(0.63 * 4096))
    flop = sum(layer_flop(kept).values())
    assert round(flop / 1e9) == 365
    assert round(sum(layer_flop(LayerSize()).values()) / flop, 1) == 2.9


@pytest.mark.parametrize(
    "shares", [TYPICAL, dict.fromkeys(TYPICAL, 1.0), dict.fromkeys(TYPICAL, 1 / 64)]
)
def test_what_runs_is_what_the_formula_says(shares: dict[str, float]) -> None:
    kept = {n: round(shares[n] * 64) for n in shares}
    want = foreground_work(SIZE, kept, itemsize=2).flop
    assert _step_flop(SIZE, shares) == want


def test_shares_are_kept_in_sorted_unique_patches() -> None:
    grids = {
        "views": Grid(frames=4, height=8, width=8),
        "texture": Grid(frames=1, height=16, width=16),
    }
    streams = {"views": "mv", "texture": "uv"}
    groups = [FrameGroup(name=n, stream=streams[n], grid=g) for n, g in grids.items()]  # type: ignore[arg-type]
    keep = kept_tokens(TokenLayout.of(groups), TYPICAL, seed=0)
    layout = TokenLayout(groups=tuple(groups), keep=keep)
    assert {n: len(i) for n, i in keep.items()} == {"views": 54, "texture": 161}
    assert len(set(layout.streams["mv"].frame_lengths)) > 1, "frames differ"
    again = kept_tokens(TokenLayout.of(groups), TYPICAL, seed=0)
    assert all(torch.equal(keep[n], again[n]) for n in keep)


def test_rows_are_compared_by_their_fastest_calls() -> None:
    def row(name: str, fastest: float, flop: float) -> Row:
        wall = Spread(median_s=9.0, p10_s=9.0, p90_s=9.0, min_s=9.0)
        time = Timing(
            clock="cpu",
            median_s=9.0,
            p10_s=9.0,
            p90_s=9.0,
            min_s=fastest,
            n=5,
            warmup=1,
            cache="warm",
            wall=wall,
        )
        return Row(
            benchmark="foreground",
            case="step",
            implementation=name,
            status="ok",
            dtype="float32",
            work=Work(flop=flop),
            time=time,
        )

    dense, typical = _compared([row(DENSE, 3.0, 9.0), row("typical object", 1.0, 2.0)])
    assert "speedup" not in dense.metrics
    assert typical.metrics["speedup"] == 3.0
    assert typical.metrics["bound"] == 4.5
    assert typical.metrics["achieved_over_bound"] == pytest.approx(2 / 3)
    assert typical.metrics["speedup_goal_met"] is True


def a_session(*, quick: bool = True) -> Session:
    limits = Ceilings(
        gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=1e-6, measured=()
    )
    device = torch.device("cpu")
    return Session(device=device, quick=quick, seed=0, ceilings=limits, say=lambda line: None)


@pytest.mark.parametrize("quick", [False, True])
def test_a_layer_is_measured_at_full_size_beside_the_curve(
    quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "HALF" if quick else "FULL_SIZE", SIZE)  # the other is large
    [case] = _full_layer(a_session(quick=quick))
    assert case.few
    dense, typical = case.candidates
    assert (dense.name, typical.name) == (DENSE, OF_TYPICAL)
    found = {row.implementation: row for row in run_case(case, a_session(quick=quick))}
    assert [row.status for row in found.values()] == ["ok", "ok"]
    assert all(row.accuracy is not None and row.accuracy.relative for row in found.values())
    call: Any = typical.call
    wrong = replace(typical, call=lambda: {n: 1.1 * x for n, x in call().items()})
    rows = run_case(replace(case, candidates=[dense, wrong]), a_session(quick=quick))
    assert [row.status for row in rows] == ["ok", "wrong"]
    assert dense.work is not None
    assert typical.work is not None
    assert 2.0 < (dense.work.flop or 0) / (typical.work.flop or 1) < 3.5


def test_a_batch_says_why_pytorchs_kernel_for_it_cannot_run() -> None:
    case = foreground._batch(SIZE, torch.float32, a_session())
    reasons = {one.name: one.reason for one in case.candidates}
    assert "needs a CUDA device" in str(reasons.pop("packed, sdpa_varlen"))
    assert reasons == dict.fromkeys((DENSE, "packed", "one by one"))


def test_the_shipped_model_is_measured_with_both_and_against_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copies need no background: 40 dB is a hundredth of the range, and no texture moved."""
    asked = []

    def quality(*inputs: object, foreground: int | None, seed: int) -> dict[str, float]:
        asked.append(foreground)
        return {"psnr_all_db": 20.0, "psnr_unseen_db": 18.0}

    monkeypatch.setattr(foreground_shipped, "held_out_objects", lambda *x, count: [None] * count)
    monkeypatch.setattr(foreground_shipped, "quality", quality)
    [case] = foreground_shipped.shipped_cases(a_session(), tmp_path)
    assert asked == [None, 0]
    dense, shown = case.candidates
    assert dense.work is not None
    assert shown.work is not None
    assert (dense.work.flop or 0) > 3 * (shown.work.flop or 0)
    assert float(str(shown.metrics["psnr_from_dense_db"])) > 40.0
    assert "18.00 dB unseen" in shown.notes[0]
    for one in (dense, shown):
        assert one.call is not None
        assert one.check is not None
        assert one.check(one.call())[0] is None


def test_truth_of_held_out_objects_is_what_quality_is_measured_on(tmp_path: Path) -> None:
    from benchmarks.shipped import held_out_objects, quality
    from seqtex.data.splits import HELD_OUT_FAMILIES
    from seqtex.models.load import load_model

    model = load_model("seqtex-tiny", device="cpu")
    objects = held_out_objects(model, tmp_path, count=1)
    assert {case.family for case in objects} <= set(HELD_OUT_FAMILIES)
    found = quality(model, objects, foreground=0, seed=0)
    assert 5.0 < found["psnr_unseen_db"] < found["psnr_all_db"] < 60.0


def test_goals_are_read_without_the_packages_for_meshes() -> None:
    code = "import sys, benchmarks.goal_table; sys.exit('trimesh' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
