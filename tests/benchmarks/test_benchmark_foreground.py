"""The foreground benchmark: which tokens it keeps, its formulas, and its comparison."""

from __future__ import annotations

import pytest
import torch

from benchmarks.block import QUICK_SIZE
from benchmarks.foreground import (
    DENSE,
    TYPICAL,
    _compared,
    _step_flop,
    foreground_work,
    kept_tokens,
)
from benchmarks.formulas import LayerSize, layer_flop
from benchmarks.models import ModelSize
from benchmarks.result import Row, Spread, Timing, Work
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
