"""Adapters: function, merging, names, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.lora import (
    LoRALinear,
    inject_lora,
    load_lora_state_dict,
    lora_layers,
    lora_state_dict,
    merge_lora,
    merged_state_dict,
    unmerge_lora,
)


def small_model(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 5, bias=bias, dtype=dtype), nn.GELU(), nn.Linear(5, 4, dtype=dtype)
    )


def adapted(rank: int = 3, alpha: float = 2.0, **options: object) -> nn.Sequential:
    model = small_model(**options)  # type: ignore[arg-type]
    inject_lora(model, ["0", "2"], rank=rank, alpha=alpha)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.lora_B.weight)
    return model


def test_a_fresh_adapter_changes_no_bit_and_no_key() -> None:
    model = small_model()
    x = torch.randn(7, 6)
    before, keys = model(x), set(model.state_dict())
    assert inject_lora(model, ["0", "2"], rank=2, alpha=1.0) == ["0", "2"]
    assert torch.equal(model(x), before)
    new = {f"{i}.lora_{side}.weight" for i in (0, 2) for side in "AB"}
    assert set(model.state_dict()) == keys | new


@given(rank=st.integers(1, 8), alpha=st.floats(0.1, 64), bias=st.booleans())
def test_the_function_is_that_of_the_equation(rank: int, alpha: float, bias: bool) -> None:
    base = nn.Linear(6, 5, bias=bias, dtype=torch.float64)
    layer = LoRALinear(base, rank=rank, alpha=alpha)
    nn.init.normal_(layer.lora_B.weight)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    update = layer.lora_B.weight @ layer.lora_A.weight
    expected = x @ (base.weight + alpha / rank * update).T + (base.bias if bias else 0)
    # fp64, sums of at most 6 + 8 products of numbers up to alpha: a few units of 2^-52.
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-13 * max(1.0, alpha))
    layer.merge()
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-13 * max(1.0, alpha))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_twice_and_unmerging_restores_every_bit(dtype: torch.dtype) -> None:
    model = adapted(dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge_lora(model)
    merge_lora(model)
    assert all(layer.is_merged for _, layer in lora_layers(model))
    assert not torch.equal(model.get_submodule("0").weight, before["0.weight"])  # type: ignore[arg-type]
    unmerge_lora(model)
    unmerge_lora(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_merging_leaves_tensors_alone_that_others_hold() -> None:
    model = adapted()
    held = model.state_dict()["0.weight"]
    copied = held.clone()
    merge_lora(model)
    assert torch.equal(held, copied)


def test_unmerging_without_a_kept_base_is_refused() -> None:
    model = adapted()
    merge_lora(model, keep_base=False)
    with pytest.raises(UsageError, match="Load the weights again"):
        unmerge_lora(model)


def test_unmerging_after_a_change_of_dtype() -> None:
    model = adapted()
    base = model.state_dict()["0.weight"].clone()
    merge_lora(model)
    model.to(torch.bfloat16)
    unmerge_lora(model)
    assert torch.equal(model.state_dict()["0.weight"], base.to(torch.bfloat16))


@pytest.mark.parametrize("is_merged", [False, True])
def test_merged_state_dict_loads_into_the_plain_model(is_merged: bool) -> None:
    model, plain = adapted(), small_model()
    x = torch.randn(7, 6)
    expected = model(x)
    if is_merged:
        merge_lora(model)
    plain.load_state_dict(merged_state_dict(model), strict=True)
    # The merged weight is rounded once: 6 products of magnitude about 1.
    assert torch.allclose(plain(x), expected, atol=2e-6)


def test_weights_travel_by_name_with_a_prefix() -> None:
    source, target = adapted(), adapted()
    target.load_state_dict(
        {k: v for k, v in source.state_dict().items() if "lora" not in k}, strict=False
    )
    state = lora_state_dict(source, prefix="transformer.")
    assert set(state) == {f"transformer.{i}.lora_{side}.weight" for i in (0, 2) for side in "AB"}
    x = torch.randn(3, 6)
    assert not torch.equal(target(x), source(x))
    load_lora_state_dict(target, state, prefix="transformer.")
    assert torch.equal(target(x), source(x))


def test_weights_of_another_model_are_refused_in_groups() -> None:
    target = adapted(rank=3)
    state = lora_state_dict(adapted(rank=4))
    state["9.lora_A.weight"] = state.pop("2.lora_A.weight")
    with pytest.raises(WeightsError, match=r"1 missing.*1 unexpected.*3 misshapen"):
        load_lora_state_dict(target, state)
    merge_lora(target)
    with pytest.raises(UsageError, match="merged"):
        load_lora_state_dict(target, lora_state_dict(target))


@pytest.mark.parametrize("target", ["7", "0.nothing", "1", ""])
def test_targets_are_plain_linear_layers(target: str) -> None:
    with pytest.raises(UsageError, match="LoRA target"):
        inject_lora(small_model(), [target], rank=2, alpha=1.0)


def test_an_adapted_layer_is_not_adapted_again() -> None:
    with pytest.raises(UsageError, match=r"plain nn\.Linear"):
        inject_lora(adapted(), ["0"], rank=2, alpha=1.0)


def test_rank_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="rank"):
        LoRALinear(nn.Linear(2, 2), rank=0, alpha=1.0)


def test_a_generator_makes_the_start_reproducible_and_spares_the_global_one() -> None:
    state = torch.random.get_rng_state()
    starts = [
        LoRALinear(
            nn.Linear(8, 8, device="meta").to_empty(device="cpu"),
            rank=4,
            alpha=1.0,
            generator=torch.Generator().manual_seed(seed),
        ).lora_A.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(torch.random.get_rng_state(), state)
    bound = 8**-0.5  # as in peft: kaiming uniform with a = sqrt(5)
    assert 0.8 * bound < float(starts[0].abs().max()) <= bound


def test_the_start_is_drawn_on_the_cpu_whatever_the_default_device() -> None:
    base = nn.Linear(8, 8)
    with torch.device("meta"):
        layer = LoRALinear(base, rank=4, alpha=1.0, generator=torch.Generator().manual_seed(1))
    assert layer.lora_A.weight.device.type == "cpu"
    assert float(layer.lora_A.weight.detach().abs().max()) > 0
