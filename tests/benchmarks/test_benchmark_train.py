"""The training benchmark: every family, what a step computes, what checkpointing changes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import train
from benchmarks.result import Memory, Row, Spread, Timing
from benchmarks.train import (
    FUSED,
    OFF,
    ON,
    WIDE_FUSED,
    TrainingStep,
    step_flop,
    training_model,
    with_throughput,
)
from benchmarks.train_sizes import TrainSize, family_entry
from seqtex_backbones.entry_config import ARCHITECTURES

CPU = torch.device("cpu")
TINY = TrainSize(
    heads=2, head_dim=16, layers=2, view_tokens=2, uv_tokens=4, num_text=4, batch=2, lora_rank=2
)


@pytest.fixture(scope="module")
def step() -> TrainingStep:
    entry = family_entry("wan", TINY)
    assert entry is not None
    return TrainingStep(training_model(entry, TINY, device=CPU, seed=0), TINY, seed=0)


@pytest.mark.parametrize("family", [name for name in ARCHITECTURES.names() if name != "wan"])
def test_every_registered_family_takes_a_step(family: str) -> None:
    entry = family_entry(family, TINY)
    assert entry is not None, "a family without sizes would be missing from the results"
    taken = TrainingStep(training_model(entry, TINY, device=CPU, seed=0), TINY, seed=0)
    gradients = taken(checkpointing=True)
    assert set(gradients) == set(taken.trained)
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert 0 < norm <= 1.00001  # clipped; fp32 rounding


def test_an_unknown_family_has_no_sizes() -> None:
    assert family_entry("another", TINY) is None


def test_calls_repeat_and_checkpointing_changes_no_bit(step: TrainingStep) -> None:
    before = {n: p.detach().clone() for n, p in step.trained.items()}
    first = step(checkpointing=False)
    for checkpointing in (False, True):
        again = step(checkpointing=checkpointing)
        assert all(torch.equal(again[n], first[n]) for n in first)
    assert all(torch.equal(p, before[n]) for n, p in step.trained.items())
    assert all(p.grad is None for p in step.trained.values())
    assert step.moments >= 2 * sum(p.nbytes for p in step.trained.values())


def test_flop_are_those_of_all_layers_and_samples(step: TrainingStep) -> None:
    flop = {}
    for layers, batch in ((1, 1), (2, 1), (3, 1), (2, 2)):
        size = TrainSize(**{**vars(TINY), "layers": layers, "batch": batch})
        entry = family_entry("wan", size)
        assert entry is not None
        model = training_model(entry, size, device=CPU, seed=0)
        flop[layers, batch] = step_flop(TrainingStep(model, size, seed=0))
    assert flop[3, 1] - flop[2, 1] == flop[2, 1] - flop[1, 1] > 0
    # what the samples share is the projection of nothing but their noise levels
    assert 1.9 * flop[2, 1] < flop[2, 2] <= 2 * flop[2, 1]
    assert step_flop(step) == flop[2, 2]
    assert all(p.grad is None for p in step.trained.values())


def test_fused_kernels_train_in_both_precisions_or_say_why_not(
    step: TrainingStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = list(train.fused(step, {}))
    assert [one.name for one in refused] == [FUSED, WIDE_FUSED]
    assert all("needs a CUDA device" in str(one.reason) for one in refused)
    monkeypatch.setattr(train, "reason_unfused", lambda *about, **more: None)
    for one, bf16 in zip(train.fused(step, {}), (True, False), strict=True):
        assert one.call is not None
        got, same, other = (
            one.call(),
            step(checkpointing=False, bf16=bf16),
            step(checkpointing=False, bf16=not bf16),
        )
        assert all(torch.equal(got[n], same[n]) for n in same)
        assert not all(torch.equal(got[n], other[n]) for n in same)


def test_rows_are_compared_with_the_step_without_checkpointing() -> None:
    def row(name: str, seconds: float, peak: float) -> Row:
        spread = Spread(median_s=seconds, p10_s=seconds, p90_s=seconds, min_s=seconds)
        time = Timing(clock="cpu", **vars(spread), n=1, warmup=0, cache="warm", wall=spread)
        return Row(
            benchmark="train",
            case="one",
            implementation=name,
            parameters={"batch": 2, "num_mv": 30, "num_uv": 20},
            time=time,
            memory=Memory(peak_bytes=peak, reserved_bytes=None, meaning="made up"),
            metrics={"weights_bytes": 100, "moments_bytes": 10},
        )

    refused = Row(benchmark="train", case="one", implementation="other", status="unsupported")
    off, on, other = with_throughput([row(OFF, 2.0, 8.0), row(ON, 3.0, 4.0), refused])
    assert other == refused
    assert (off.metrics["tokens_per_s"], off.metrics["samples_per_s"]) == (50.0, 1.0)
    assert off.metrics["total_bytes"] == 118
    assert "time_over_plain" not in off.metrics
    assert (on.metrics["time_over_plain"], on.metrics["peak_over_plain"]) == (1.5, 0.5)
