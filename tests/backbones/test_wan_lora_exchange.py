"""Adapters travel to and from peft and diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from seqtex_backbones.registry import load_backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.lora import lora_layers
from seqtex_core.lora_exchange import (
    METADATA_KEY,
    load_mv_lora,
    load_mv_lora_state_dict,
    mv_lora_state_dict,
    save_mv_lora,
)
from seqtex_core.transformer import SeqTexTransformer

CONFIG = DecoupledConfig(lora_rank=3, lora_alpha=1.5)
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(2, 16, 2, 4, 6, generator=DRAW)
SIGMA = torch.rand(2, generator=DRAW)
TEXT = torch.randn(2, 8, 32, generator=DRAW)
# fp32 models of two blocks that add the same terms in another order.
CLOSE = 2e-6


def ours(*, random: bool) -> SeqTexTransformer:
    transformer = SeqTexTransformer(load_backbone("wan-tiny", seed=0), CONFIG)
    if random:
        for _, layer in lora_layers(transformer):
            nn.init.normal_(layer.lora_B.weight, std=0.3)
    return transformer


@torch.no_grad()
def our_velocity(transformer: SeqTexTransformer) -> Tensor:
    layout = transformer.layout({"views": (2, 4, 6)}, {"views": "mv"})
    sigmas = {"views": SIGMA[:, None].expand(2, 2)}
    cache = transformer.prepare(layout, text=TEXT)
    velocity: Tensor = transformer({"views": X}, sigmas, cache)["views"]
    return velocity


def theirs() -> Any:
    """diffusers' model with the same base weights."""
    from diffusers import WanTransformer3DModel

    from seqtex_backbones.wan.configs import WAN_TINY

    base = SeqTexTransformer(load_backbone("wan-tiny", seed=0), DecoupledConfig(mv_train="full"))
    model = WanTransformer3DModel(**WAN_TINY.config.to_diffusers())
    model.load_state_dict(base.mv_state_dict())
    return model


@torch.no_grad()
def their_velocity(model: Any) -> Tensor:
    velocity: Tensor = model(X, 1000.0 * SIGMA, TEXT, return_dict=False)[0]
    return velocity


def test_the_same_base_gives_the_same_velocity() -> None:
    assert (our_velocity(ours(random=False)) - their_velocity(theirs())).abs().max() <= CLOSE


def test_our_file_loads_into_diffusers_with_its_scale(tmp_path: Path) -> None:
    transformer, model = ours(random=True), theirs()
    base = their_velocity(model)
    save_mv_lora(transformer, tmp_path / "pytorch_lora_weights.safetensors")
    with safe_open(str(tmp_path / "pytorch_lora_weights.safetensors"), framework="pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_lora_adapter(state, prefix="transformer", metadata=metadata)
    expected = our_velocity(transformer)
    assert (expected - base).abs().max() > 0.01, "the adapters must matter"
    assert (their_velocity(model) - expected).abs().max() <= CLOSE


def test_our_weights_load_into_a_model_that_peft_injected() -> None:
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    transformer = ours(random=True)
    config = LoraConfig(r=3, lora_alpha=1.5, target_modules=list(transformer.spec.lora_targets))
    model = inject_adapter_in_model(config, theirs())
    done = set_peft_model_state_dict(model, mv_lora_state_dict(transformer, prefix=""))
    assert not done.unexpected_keys
    assert (their_velocity(model) - our_velocity(transformer)).abs().max() <= CLOSE


def peft_model() -> Any:
    from peft import LoraConfig

    model = theirs()
    targets = list(ours(random=False).spec.lora_targets)
    model.add_adapter(
        LoraConfig(r=3, lora_alpha=1.5, target_modules=targets, init_lora_weights=False)
    )
    return model


def test_weights_exported_by_peft_load_into_ours() -> None:
    from peft import get_peft_model_state_dict

    model, transformer = peft_model(), ours(random=False)
    load_mv_lora_state_dict(transformer, get_peft_model_state_dict(model), prefix="")
    assert (our_velocity(transformer) - their_velocity(theirs())).abs().max() > 0.01
    assert (our_velocity(transformer) - their_velocity(model)).abs().max() <= CLOSE


@pytest.mark.parametrize("alpha", [1.5, 3.0])
def test_a_file_saved_by_diffusers_loads_into_ours(tmp_path: Path, alpha: float) -> None:
    model, transformer = peft_model(), ours(random=False)
    model.save_lora_adapter(str(tmp_path))
    path = tmp_path / "pytorch_lora_weights.safetensors"
    if alpha != 1.5:
        config = DecoupledConfig(lora_rank=3, lora_alpha=alpha)
        transformer = SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)
        with pytest.raises(Exception, match=r"alpha 1\.5 for rank 3"):
            load_mv_lora(transformer, path, prefix="")
        return
    load_mv_lora(transformer, path, prefix="")
    assert (our_velocity(transformer) - their_velocity(model)).abs().max() <= CLOSE
