"""Weights as trainers and other programs leave them: wrapped names, and variants in a folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from released_peer import PeerSizes, released_state
from safetensors.torch import save_file
from torch import Tensor

from seqtex.models.conversion_sources import SourceOptions, open_source
from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.seqtex_release import RELEASED_DECOUPLED, load_released
from seqtex_backbones.seqtex_release_keys import released_names
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_backbones.wan.keys import to_original
from seqtex_backbones.weight_source import find_weights
from seqtex_core.checkpoint import load_model, save_model, unique_tensors
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import WeightsError
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.wrapper_names import without_wrappers

PREFIXES = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "diffusion_model.",
    "model.diffusion_model.",
]
FORMATS: tuple[Callable[[str], str], ...] = (str, to_original)
SIZES = PeerSizes()
CONFIG = replace(RELEASED_DECOUPLED, lora_rank=SIZES.rank, lora_alpha=SIZES.alpha)


def weights() -> dict[str, Tensor]:
    named = native_tensors(load_backbone("wan-tiny", seed=3))
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def wrapped(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_backbone_with_wrapped_names_is_read_and_it_is_told(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = weights()
    for index, format_of in enumerate(FORMATS):
        file = tmp_path / f"wan{index}.safetensors"
        save_file(wrapped({format_of(n): t for n, t in state.items()}, prefix), file)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            loaded = native_tensors(load_backbone("wan-tiny", weights=file))
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        half = native_tensors(load_backbone("wan-tiny", weights=file, dtype=torch.bfloat16))
        assert torch.equal(half["proj_out.weight"], state["proj_out.weight"].bfloat16())
        assert f"{file.name}: 69 of 69" in caplog.text
        assert prefix in caplog.text


def test_blocks_that_were_wrapped_one_by_one(tmp_path: Path) -> None:
    """As ``torch.compile`` and ``checkpoint_wrapper`` of single blocks leave them."""
    state = weights()
    for word in ("_orig_mod", "_checkpoint_wrapped_module"):
        inner = {re.sub(r"(blocks\.\d+)", rf"\1.{word}", name): t for name, t in state.items()}
        assert inner.keys() != state.keys()
        save_file(inner, tmp_path / "wan.safetensors")
        loaded = native_tensors(load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors"))
        assert all(torch.equal(loaded[name], state[name]) for name in state)
    both = {**state, "_orig_mod.proj_out.bias": state["proj_out.bias"].clone()}
    save_file(both, tmp_path / "wan.safetensors")
    with pytest.raises(WeightsError, match="70 tensors under 69 names"):
        load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")


def test_a_prefix_that_some_names_lack_is_part_of_them(tmp_path: Path) -> None:
    state = weights()
    state["module.proj_out.bias"] = state.pop("proj_out.bias")
    save_file(state, tmp_path / "wan.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing.*1 unexpected: module\.proj_out\.bias"):
        load_backbone("wan-tiny", weights=tmp_path / "wan.safetensors")
    assert without_wrappers(["module.a", "modules.b"]) == {n: n for n in ("module.a", "modules.b")}


@pytest.mark.parametrize("prefix", ["module.", "model.diffusion_model."])
def test_the_released_layout_with_wrapped_names(tmp_path: Path, prefix: str) -> None:
    state = released_state(SIZES)
    save_file(wrapped(state, prefix), tmp_path / "released.safetensors")
    model = load_released(tmp_path / "released.safetensors", model=WAN_TINY, config=CONFIG)
    named = unique_tensors(model)
    assert all(torch.equal(named[n], state[key]) for n, key in released_names(named).items())
    options = SourceOptions(head_dim=SIZES.head_dim, lora_alpha=SIZES.alpha)
    with open_source(tmp_path / "released.safetensors", options) as source:
        assert source.layout == "released"
        name = next(iter(released_names(named)))
        assert torch.equal(source.tensors[name].read(), named[name])


def test_conversion_reads_a_wrapped_wan_model(tmp_path: Path) -> None:
    state = weights()
    for layout, format_of in zip(("diffusers", "original"), FORMATS, strict=True):
        file = tmp_path / f"{layout}.safetensors"
        save_file(wrapped({format_of(n): t for n, t in state.items()}, "module."), file)
        with open_source(file, SourceOptions(head_dim=24)) as source:
            assert source.layout == layout
            assert all(torch.equal(source.tensors[n].read(), state[n]) for n in state)


def test_our_own_files_fit_with_and_without_a_wrapper(tmp_path: Path) -> None:
    def model(seed: int) -> SeqTexTransformer:
        return SeqTexTransformer(load_backbone("wan-tiny", seed=seed), DecoupledConfig(lora_rank=2))

    class Holder(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    first, path = model(0), tmp_path / "model.safetensors"
    compiled: Any = torch.compile(first)
    want = first.state_dict()
    for saved, loaded in (
        (Holder(first), model(1)),
        (first, Holder(model(1))),
        (Holder(first), Holder(model(1))),
        (compiled, model(1)),
    ):
        save_model(saved, path)
        load_model(loaded, path)
        plain = loaded.module if isinstance(loaded, Holder) else loaded
        assert all(torch.equal(tensor, want[n]) for n, tensor in plain.state_dict().items())


def write(path: Path, *, fp16: bool, names: slice = slice(None)) -> list[str]:
    """Some of the weights; the variant has other values, so that it can be told apart."""
    state = dict(list(weights().items())[names])
    save_file({n: (t * 2).half() if fp16 else t for n, t in state.items()}, path)
    return list(state)


def write_sharded(folder: Path, shard: str, index: str, *, fp16: bool) -> None:
    half = len(weights()) // 2
    parts = (slice(None, half), slice(half, None))
    names = [shard.format(f"{n + 1:05d}-of-00002") for n in range(2)]
    table: dict[str, str] = {}
    for name, part in zip(names, parts, strict=True):
        table |= dict.fromkeys(write(folder / name, fp16=fp16, names=part), name)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": table}))


STEM = "diffusion_pytorch_model"


@pytest.mark.parametrize("plain_shards", [False, True])
@pytest.mark.parametrize("fp16_shards", [False, True])
def test_a_folder_with_a_variant_gives_the_one_asked_for(
    tmp_path: Path, plain_shards: bool, fp16_shards: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Files named as diffusers and transformers write them."""
    if plain_shards:
        index = f"{STEM}.safetensors.index.json"
        write_sharded(tmp_path, STEM + "-{}.safetensors", index, fp16=False)
    else:
        write(tmp_path / f"{STEM}.safetensors", fp16=False)
    if fp16_shards:
        index = f"{STEM}.safetensors.index.fp16.json"
        write_sharded(tmp_path, STEM + ".fp16-{}.safetensors", index, fp16=True)
    else:
        write(tmp_path / f"{STEM}.fp16.safetensors", fp16=True)
    want = weights()["proj_out.weight"]
    loaded = native_tensors(load_backbone("wan-tiny", weights=tmp_path))["proj_out.weight"]
    assert torch.equal(loaded, want)
    assert "fp16" in caplog.text
    assert "variant=" in caplog.text
    found = native_tensors(load_backbone("wan-tiny", weights=tmp_path, variant="fp16"))
    assert torch.equal(found["proj_out.weight"], (want * 2).half())
    with pytest.raises(WeightsError, match="None of them is of variant 'bf16'"):
        find_weights(tmp_path, variant="bf16")


def test_a_folder_of_nothing_but_a_variant_needs_no_word(tmp_path: Path) -> None:
    index = f"{STEM}.fp16.safetensors.index.json"
    write_sharded(tmp_path, STEM + "-{}.fp16.safetensors", index, fp16=True)
    for variant in (None, "fp16"):
        assert len(find_weights(tmp_path, variant=variant).files) == 2
    assert len(find_weights(tmp_path / index).files) == 2
    with pytest.raises(WeightsError, match="a folder"):
        find_weights(tmp_path / index, variant="fp16")


def test_two_variants_and_no_plain_file_want_a_word(tmp_path: Path) -> None:
    for variant in ("fp16", "ema"):
        write(tmp_path / f"{STEM}.{variant}.safetensors", fp16=variant == "fp16")
    with pytest.raises(WeightsError, match=r"in two files.*variant='fp16'"):
        load_backbone("wan-tiny", weights=tmp_path)
    found = native_tensors(load_backbone("wan-tiny", weights=tmp_path, variant="ema"))
    assert torch.equal(found["proj_out.weight"], weights()["proj_out.weight"])


def test_dots_in_names_are_no_variants(tmp_path: Path) -> None:
    half = len(weights()) // 2
    write(tmp_path / "Wan2.1-part.1.safetensors", fp16=False, names=slice(None, half))
    write(tmp_path / "Wan2.1-part.2.safetensors", fp16=False, names=slice(half, None))
    loaded = native_tensors(load_backbone("wan-tiny", weights=tmp_path))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())
