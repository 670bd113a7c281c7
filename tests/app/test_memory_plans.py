"""Plans of memory: they fit their budgets or are refused, and give up nothing unasked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_figures import GB, WAN_1_3B

from seqtex.models.memory import (
    BUDGETS,
    Measures,
    MemoryNeeds,
    peaks,
    plan_memory,
    required,
)
from seqtex_core.errors import OutOfMemoryError, UsageError


@pytest.mark.parametrize(
    ("budget", "measures"),
    [
        (24, Measures()),
        (16, Measures()),
        (12, Measures(text_on_cpu=True)),
        (8, Measures(offload=True, text_on_cpu=True)),
    ],
)
def test_the_budgets_of_the_1_3b_model(budget: int, measures: Measures) -> None:
    """The table of the README."""
    plan = plan_memory(WAN_1_3B, place="accelerator", budget=budget)
    assert plan.measures == measures
    assert plan.peak <= budget * 2**30
    assert len(plan.costs()) == measures.offload + measures.text_on_cpu


def test_ten_times_the_model_streams_its_blocks() -> None:
    needs = replace(WAN_1_3B, transformer=55 * GB, outside_blocks=GB, largest_block=GB)
    for budget in BUDGETS:
        plan = plan_memory(needs, place="accelerator", budget=budget)
        assert plan.measures.stream_blocks
        assert plan.measures.recast_geometry  # caches are made outside of the blocks' forward
        assert plan.peak <= budget * 2**30
        assert "51.2 GiB moved per step" in str(plan)


def test_the_cpu_has_one_memory() -> None:
    """Nothing is moved there: only geometry and the VAE can be held in less."""
    needs = replace(WAN_1_3B, text=0)
    assert plan_memory(needs, place="cpu", budget=12).measures == Measures()
    larger = replace(needs, decode={**needs.decode, "float32": 3 * GB})
    plan = plan_memory(larger, place="cpu", budget=12)
    assert plan.measures == Measures(codec_mode="exact_tiles")
    with pytest.raises(OutOfMemoryError, match="--text-embeddings"):
        plan_memory(WAN_1_3B, place="cpu", budget=12)


def test_budgets_are_the_named_ones() -> None:
    with pytest.raises(UsageError, match="8, 12, 16, 24"):
        plan_memory(WAN_1_3B, place="cpu", budget=10)


sizes = st.integers(0, 40 * GB)
needs = st.builds(
    lambda t, o, b, x, c, m, a, d: MemoryNeeds(
        transformer=t,
        outside_blocks=t * o // 10,
        largest_block=t * b // 10,
        text=x,
        codec={"float32": c, "bfloat16": c // 2, "blended_tiles": c // 2},
        maps=m // 10,
        encode={"float32": a, "bfloat16": a // 2, "blended_tiles": a // 16},
        decode={"float32": a, "bfloat16": a // 2, "blended_tiles": a // 16},
        denoise=d,
        denoise_recast=d // 2,
    ),
    sizes, st.integers(0, 3), st.integers(0, 5), sizes, sizes, sizes, sizes, sizes,
)  # fmt: skip


@given(needs, st.sampled_from(["cpu", "accelerator"]), st.sampled_from(BUDGETS))
def test_plans_fit_or_are_refused(needs: MemoryNeeds, place: Any, budget: int) -> None:
    try:
        plan = plan_memory(needs, place=place, budget=budget)
    except OutOfMemoryError:
        most = Measures(
            offload=True, text_on_cpu=True, recast_geometry=True, stream_blocks=True,
            codec_mode="blended_tiles",
        )  # fmt: skip
        assert required(max(peaks(needs, most, place).values())) > budget * 2**30
        return
    assert plan.peak <= budget * 2**30
    if plan.measures != Measures():
        nothing = max(peaks(needs, Measures(), place).values())
        assert required(nothing) > budget * 2**30  # nothing is given up unasked
    following = plan.smaller()
    assert following is None or following.peak < plan.peak


def test_a_budget_that_nothing_fits() -> None:
    needs = replace(WAN_1_3B, denoise=20 * GB, denoise_recast=20 * GB)
    with pytest.raises(OutOfMemoryError, match=r"within 8\.0 GiB.*smaller --uv-size"):
        plan_memory(needs, place="accelerator", budget=8)
