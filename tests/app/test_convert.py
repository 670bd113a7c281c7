"""``seqtex convert``: every layout to every other that can hold it, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_sources import (
    CONFIG,
    FULL,
    SIZES,
    Seqtex,
    authors_key,
    diffusers_folder,
    read,
    released_folder,
    released_model,
    same,
    state_of,
)
from released_peer import released_state
from safetensors import safe_open
from torch import Tensor

from seqtex.cli.convert import parse_size
from seqtex.models.config import ModelConfig
from seqtex.models.released import released_model_config
from seqtex_backbones.registry import load_backbone
from seqtex_backbones.wan.configs import WAN_TINY, WanConfig
from seqtex_core.checkpoint import save_model, unique_tensors
from seqtex_core.lora import merge_lora
from seqtex_core.lora_exchange import load_mv_lora


@pytest.mark.parametrize("config", [WAN_TINY.config, FULL], ids=["t2v", "flf2v"])
@pytest.mark.parametrize("target", ["single.safetensors", "folder"])
def test_wan_there_and_back(seqtex: Seqtex, tmp_path: Path, config: WanConfig, target: str) -> None:
    """diffusers' shards to the authors' names, compared with the published table, and back."""
    source = diffusers_folder(tmp_path / "diffusers", config)
    wanted = {authors_key(key): tensor for key, tensor in state_of(config).items()}
    assert len(wanted) == len(state_of(config))
    there = tmp_path / target
    outcome = seqtex("convert", source, there, "--to", "original", "--shard-size", "60KB")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [str(there)]
    assert "diffusers -> original" in outcome.err
    assert same(read(there), wanted)
    if target == "folder":
        assert len(list(there.glob("*.safetensors"))) > 3
        assert json.loads((there / "config.json").read_text())["_class_name"] == "WanModel"
    back = tmp_path / "back"
    words = ["--to", "diffusers"]
    told = ["--head-dim", "24"]
    if target == "folder":  # its config.json says it
        refused = seqtex("convert", there, back, *words, *told)
        assert (refused.code, "--head-dim" in refused.err) == (2, True)
    outcome = seqtex("convert", there, back, *words, *(told if target != "folder" else []))
    assert outcome.code == 0, outcome.err
    assert same(read(back), state_of(config))
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel.from_pretrained(back, local_files_only=True)
    assert same(model.state_dict(), state_of(config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_released_weights_to_a_model_folder_and_back(
    seqtex: Seqtex, tmp_path: Path, dtype: torch.dtype
) -> None:
    source = released_folder(tmp_path / "released", dtype=dtype)
    folder, back = tmp_path / "model", tmp_path / "back"
    outcome = seqtex("convert", source, folder, "--to", "seqtex", "--lora-alpha", "2")
    assert outcome.code == 0, outcome.err
    assert "add it with --vae" in outcome.err
    config = ModelConfig.read(folder)
    assert config.decoupled == CONFIG
    assert config.backbone["config"] == {
        **asdict(WAN_TINY.config), "patch_size": [1, 2, 2], "text_length": 512
    }  # fmt: skip
    assert config.sampling == released_model_config().sampling
    outcome = seqtex("convert", folder, back, "--to", "released")
    assert outcome.code == 0, outcome.err
    assert same(read(back), read(source))
    told = [json.loads((place / "config.json").read_text()) for place in (source, back)]
    assert told[0].items() <= told[1].items()


def test_a_model_folder_with_its_vae_can_be_loaded(seqtex: Seqtex, tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    from seqtex.models.load import load_model

    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    source = released_folder(tmp_path / "released")
    words = ["--to", "seqtex", "--lora-alpha", "2", "--vae", tmp_path / "pipeline"]
    outcome = seqtex("convert", source, tmp_path / "model", *words)
    assert outcome.code == 0, outcome.err
    model = load_model(tmp_path / "model", dtype=torch.float32)
    named = unique_tensors(model.transformer)
    assert torch.equal(
        named["geometry.normal.conv.bias"], read(source)["norm_patch_embedding.bias"]
    )
    codec: Any = model.codec
    assert same(codec.vae.state_dict(), vae.state_dict())
    assert codec.ranges.rgb == (0.0, 1.0)
    assert codec.sample_posterior
    # copied along when the folder is converted again
    outcome = seqtex(
        "convert", tmp_path / "model", tmp_path / "half", "--to", "seqtex", "--dtype", "bfloat16"
    )
    assert outcome.code == 0, outcome.err
    assert {p.name for p in (tmp_path / "half").iterdir()} == {
        p.name for p in (tmp_path / "model").iterdir()
    }
    assert {t.dtype for t in read(tmp_path / "half" / "model.safetensors").values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("trained", [False, True])
def test_the_views_branch_as_a_wan_model(seqtex: Seqtex, tmp_path: Path, trained: bool) -> None:
    """Adapters merged: bit for bit what the model itself merges."""
    model = released_model(tmp_path / "released")
    source = tmp_path / "released"
    words = ["--lora-alpha", "2"]
    if trained:
        source, words = tmp_path / "model", []
        source.mkdir()
        config = released_model_config(
            decoupled=CONFIG,
            backbone={"name": "t", "architecture": "wan", "config": asdict(WAN_TINY.config)},
        )
        (source / "seqtex.json").write_text(json.dumps(config.to_json()))
        save_model(model, source / "model.safetensors")
    outcome = seqtex("convert", source, tmp_path / "wan", "--to", "diffusers", *words)
    assert outcome.code == 0, outcome.err
    assert "views only" in outcome.err
    merge_lora(model)
    assert same(read(tmp_path / "wan"), {k: t.detach() for k, t in model.mv_state_dict().items()})
    load_backbone("wan-tiny", weights=tmp_path / "wan")


def test_adapters_alone(seqtex: Seqtex, tmp_path: Path) -> None:
    model = released_model(tmp_path / "released")
    out = tmp_path / "lora.safetensors"
    outcome = seqtex("convert", tmp_path / "released", out, "--to", "lora", "--lora-alpha", "2")
    assert outcome.code == 0, outcome.err
    state = released_state(SIZES)
    adapters = {
        f"transformer.{key.replace('.default', '')}": t
        for key, t in state.items()
        if ".lora_" in key
    }
    assert same(read(out), adapters)
    for _, tensor in model.named_parameters():
        tensor.data.zero_()
    load_mv_lora(model, out)  # rank and alpha in the header agree
    named = unique_tensors(model)
    key = "attn1.to_q.lora_A"
    assert torch.equal(named[f"blocks.1.mv.{key}.weight"], state[f"blocks.1.{key}.default.weight"])


def test_number_formats(seqtex: Seqtex, tmp_path: Path) -> None:
    source = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    out = tmp_path / "half.safetensors"
    assert seqtex("convert", source, out, "--to", "original", "--dtype", "bfloat16").code == 0
    wanted = {authors_key(key): t.bfloat16() for key, t in state_of(WAN_TINY.config).items()}
    assert same(read(out), wanted)


def test_one_tensor_is_held_at_a_time(
    seqtex: Seqtex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from seqtex_core.weight_files import WeightFiles

    source = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    alive: list[weakref.ref[Tensor]] = []
    most = [0]
    original = WeightFiles.copy

    def watched(self: WeightFiles, name: str) -> Tensor:
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        tensor = original(self, name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(WeightFiles, "copy", watched)
    assert seqtex("convert", source, tmp_path / "out", "--to", "original").code == 0
    assert len(alive) == len(state_of(WAN_TINY.config))
    assert most[0] <= 1


def test_of_a_linked_pipeline_the_text_encoder_is_copied(seqtex: Seqtex, tmp_path: Path) -> None:
    for part in ("text_encoder", "tokenizer", "transformer"):
        (tmp_path / "pipeline" / part).mkdir(parents=True)
        (tmp_path / "pipeline" / part / "file.json").write_text(part)
    released = released_folder(tmp_path / "released")
    assert seqtex("convert", released, tmp_path / "model", "--to", "seqtex").code == 0
    (tmp_path / "model" / "text").symlink_to(tmp_path / "pipeline")
    done = seqtex("convert", tmp_path / "model", tmp_path / "out", "--to", "seqtex")
    assert done.code == 0, done.err
    text = tmp_path / "out" / "text"
    assert sorted(path.parent.name for path in text.rglob("*.json")) == [
        "text_encoder",
        "tokenizer",
    ]


def test_headers_say_what_the_library_of_the_format_expects(seqtex: Seqtex, tmp_path: Path) -> None:
    source = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    assert seqtex("convert", source, tmp_path / "a.safetensors", "--to", "diffusers").code == 0
    with safe_open(str(tmp_path / "a.safetensors"), framework="np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("60kb", 60_000), ("7", 7)]
)
def test_sizes_in_words(text: str, size: int) -> None:
    assert parse_size("--shard-size", text) == size
