"""Scaling and the waterfall: what is varied, what is counted, and predictions that fit counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.ceilings import Ceilings
from benchmarks.formulas import layer_flop
from benchmarks.models import ModelSize
from benchmarks.runner import Session
from benchmarks.scaling import (
    LAYERS,
    SHRINK,
    SMALL,
    UV_SIZES,
    VIEWS,
    _counted,
    at_uv_resolution,
    points,
)
from benchmarks.waterfall import FIRST, STAGES, _candidate, _models, predicted_seconds
from seqtex_core.kernels.choose import using_kernels

CPU = torch.device("cpu")
TINY = ModelSize(
    heads=1, ffn_dim=96, views=2, view_tokens=3, uv_tokens=5, num_text=7, lora_rank=4, layers=1
)
LIMITS = Ceilings(gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=0.0, measured=())
SESSION = Session(device=CPU, quick=True, seed=0, ceilings=LIMITS)


def test_points_vary_one_size_at_a_time() -> None:
    full = points(ModelSize())
    assert len(full) == len(VIEWS) + len(UV_SIZES)
    views = [size.layer for name, size, _ in full if name.endswith("views")]
    assert [layer.num_mv for layer in views] == [1024 * n for n in VIEWS]
    assert {layer.num_uv for layer in views} == {4096}
    textures = [size.layer for name, size, _ in full if name.startswith("UV")]
    assert [layer.num_uv for layer in textures] == [1024, 4096, 16384, 65536]
    assert {layer.num_mv for layer in textures} == {4096}


def test_the_small_model_keeps_the_shares_of_the_work() -> None:
    for (name, small, _), (_, full, _) in zip(
        points(SMALL, shrink=SHRINK), points(ModelSize()), strict=True
    ):
        assert small.layer.num_uv * SHRINK**2 == full.layer.num_uv
        assert small.layer.num_mv * SHRINK**2 == full.layer.num_mv
        shares = []
        for size in (small, full):
            flop = layer_flop(size.layer)
            attention = sum(f for part, f in flop.items() if part.endswith("self attention"))
            shares.append(attention / sum(flop.values()))
        assert shares[0] == pytest.approx(shares[1], rel=0.35), name


def test_one_resolution_for_all_costs_what_the_paper_saves() -> None:
    full = ModelSize()
    flop = [sum(layer_flop(s.layer).values()) for s in (full, at_uv_resolution(full))]
    assert round(flop[1] / flop[0], 2) == 3.87


def test_counts_are_the_formula_and_bytes_grow_with_the_texture() -> None:
    found = [_counted(replace(TINY, uv_tokens=side)) for side in (5, 10)]
    for (layer, _), side in zip(found, (5, 10), strict=True):
        size = replace(TINY, uv_tokens=side).layer
        assert layer["flop"] == sum(layer_flop(size).values())
    assert found[0][0]["launches"] == found[1][0]["launches"] > 0
    held = found[0][1]
    caches = LAYERS * 2 * TINY.dim * (size_of(TINY) + 2 * TINY.num_text)
    assert caches < held < found[1][1]


def size_of(size: ModelSize) -> int:
    """Tokens of all groups."""
    return size.layer.num_mv + size.layer.num_uv


def test_all_stages_compute_the_same_and_predictions_fall() -> None:
    models = _models(TINY, CPU, torch.float32, seed=0)
    outputs, predicted = [], []
    for stage in STAGES[:-1]:
        with torch.no_grad(), using_kernels(stage.kernels):
            outputs.append(stage.build(models)())
        predicted.append(predicted_seconds(stage, TINY, SESSION, torch.float32))
    for velocity in outputs[1:]:
        for name, value in velocity.items():
            distance = (value - outputs[0][name]).norm() / outputs[0][name].norm()
            assert distance < 2e-6, name  # fp32 rounding, by order of operations
    assert STAGES[0].name == FIRST
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[3] < 0.8 * predicted[0]


def test_a_stage_that_cannot_run_here_says_why() -> None:
    models = _models(TINY, CPU, torch.float32, seed=0)
    candidate = _candidate(STAGES[-1], models, TINY, torch.float32, SESSION)
    assert candidate.call is None
    assert candidate.reason
