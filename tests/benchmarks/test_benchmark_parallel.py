"""Counts of several devices: together they do the work of one, and send what the text says."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.approximations import psnr, relative_l2
from benchmarks.formulas import layer_flop
from benchmarks.models import ModelSize
from benchmarks.parallel import OVERLAPPED, Plan, count_share, plan_rows

SIZE = ModelSize(heads=2, ffn_dim=64, views=2, view_tokens=4, uv_tokens=4, num_text=4, lora_rank=2)
ROWS = 32 * SIZE.dim * 2
"""Bytes of the mv rows in bf16; the uv rows are half as many."""


def test_branches_apart_send_one_way() -> None:
    mv, uv = (count_share(Plan(branches=2), branch, SIZE) for branch in (0, 1))
    assert mv.flop + uv.flop == sum(layer_flop(SIZE.layer).values())
    assert (mv.received.total(), dict(uv.received)) == (0, {OVERLAPPED: ROWS})
    assert (mv.once, uv.once) == (ROWS // 2, ROWS)  # the other branch's last hidden states


def test_halves_of_rows_gather_keys_and_values_or_exchange_heads() -> None:
    gather = count_share(Plan(sequence=2), 0, SIZE)
    ulysses = count_share(Plan(sequence=2, way="ulysses"), 0, SIZE)
    assert 2 * gather.flop == 2 * ulysses.flop == sum(layer_flop(SIZE.layer).values())
    # half of k and v of mv rows twice (both branches read them) and of uv rows once
    assert dict(gather.received) == {"gather": 2 * (2 * ROWS + ROWS // 2) // 2}
    # a quarter of q and out of both streams, and of what was said above
    queries = 2 * (ROWS + ROWS // 2)
    assert dict(ulysses.received) == {"all-to-all": (queries + 2 * (2 * ROWS + ROWS // 2)) // 4}


def test_plans_that_the_heads_do_not_allow_are_rows_with_a_reason() -> None:
    plans = [Plan(sequence=4, way="ulysses"), Plan(branches=2)]
    refused, row = plan_rows(plans, SIZE)
    assert (refused.status, row.status) == ("unsupported", "ok")
    assert "divides 2 heads" in (refused.reason or "")
    speedup, bound = row.metrics["projected_speedup"], row.metrics["bound"]
    assert isinstance(speedup, float)
    assert isinstance(bound, float)
    assert 0.0 < speedup < bound


def test_distances() -> None:
    exact = torch.full((3, 4, 4), 0.5)
    assert psnr(exact, exact) is None
    assert psnr(exact + 0.1, exact) == pytest.approx(20.0, abs=1e-4)
    assert relative_l2(exact * 1.25, exact) == pytest.approx(0.25)
    assert relative_l2(exact * math.nan, exact) is None
