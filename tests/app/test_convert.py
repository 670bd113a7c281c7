"""``seqtex convert``: every layout to every other that can hold it, and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqtex.cli.convert import parse_size
from seqtex.models.config import ModelConfig
from seqtex.models.released import released_model_config
from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.seqtex_release import RELEASED_DECOUPLED, load_released
from seqtex_backbones.wan.configs import WAN_TINY, WAN_TINY_I2V, WanConfig, WanEntry
from seqtex_core.checkpoint import save_model, unique_tensors
from seqtex_core.errors import UsageError
from seqtex_core.lora import merge_lora
from seqtex_core.lora_exchange import load_mv_lora
from seqtex_core.transformer import SeqTexTransformer

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from released_peer import PeerSizes, released_state

Seqtex = Callable[..., Any]
State = Mapping[str, Tensor]
SIZES = PeerSizes()
CONFIG = replace(RELEASED_DECOUPLED, lora_rank=SIZES.rank, lora_alpha=SIZES.alpha)
FULL = replace(WAN_TINY_I2V.config, pos_embed_seq_len=514)


def state_of(config: WanConfig) -> dict[str, Tensor]:
    entry = WanEntry(name="any", summary="", config=config)
    named = native_tensors(load_backbone(entry, seed=3))
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def authors_key(key: str) -> str:
    """The authors' name of a diffusers key, in the order of the published table."""
    key = key.replace("condition_embedder.time_embedder.linear_1", "time_embedding.0")
    key = key.replace("condition_embedder.time_embedder.linear_2", "time_embedding.2")
    key = key.replace("condition_embedder.text_embedder.linear_1", "text_embedding.0")
    key = key.replace("condition_embedder.text_embedder.linear_2", "text_embedding.2")
    key = key.replace("condition_embedder.time_proj", "time_projection.1")
    image = {"norm1": "proj.0", "ff.net.0.proj": "proj.1", "ff.net.2": "proj.3", "norm2": "proj.4"}
    for theirs, ours in {**image, "pos_embed": "emb_pos"}.items():
        key = key.replace(f"condition_embedder.image_embedder.{theirs}", f"img_emb.{ours}")
    inside = key.startswith("blocks.")
    key = key.replace("scale_shift_table", "modulation" if inside else "head.modulation")
    key = key.replace("proj_out", "head.head")
    if inside:
        key = key.replace(".norm2.", ".norm3.")
        key = key.replace("ffn.net.0.proj", "ffn.0").replace("ffn.net.2", "ffn.2")
        key = key.replace("attn1.", "self_attn.").replace("attn2.", "cross_attn.")
        key = key.replace("add_k_proj", "k_img").replace("add_v_proj", "v_img")
        key = key.replace("norm_added_k", "norm_k_img").replace("to_out.0", "o")
        for part in "qkv":
            key = key.replace(f"to_{part}.", f"{part}.")
    return key


def read(place: Path) -> dict[str, Tensor]:
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


def same(first: State, second: State) -> bool:
    return set(first) == set(second) and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key])
        for key in first
    )


def diffusers_folder(folder: Path, config: WanConfig) -> Path:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**config.to_diffusers())
    model.load_state_dict(state_of(config))
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


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


def released_folder(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir()
    state = {key: tensor.to(dtype) for key, tensor in released_state(SIZES).items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    told = {"_class_name": "WanT2TexTransformer3DModel", **WAN_TINY.config.to_diffusers()}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def released_model(folder: Path) -> SeqTexTransformer:
    return load_released(released_folder(folder), config=CONFIG)


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


def test_nothing_is_replaced_unasked(seqtex: Seqtex, tmp_path: Path) -> None:
    source = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    out = tmp_path / "out"
    words = ["convert", source, out, "--to", "original"]
    assert seqtex(*words, "--shard-size", "60KB").code == 0
    before = read(out)
    outcome = seqtex(*words)
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert same(read(out), before)
    outcome = seqtex(*words, "--overwrite")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in out.iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors"
    }  # fmt: skip
    for target in (source, tmp_path, source / "inside.safetensors"):
        outcome = seqtex("convert", source, target, "--to", "original", "--overwrite")
        assert outcome.code == 2
        assert "a place apart from SRC" in outcome.err


def test_a_failure_leaves_nothing(
    seqtex: Seqtex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqtex_core.weight_files import WeightFiles

    source = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    original = WeightFiles.copy

    def broken(self: WeightFiles, name: str) -> Tensor:
        if name == "proj_out.weight":
            raise OSError("the disk is gone")
        return original(self, name)

    monkeypatch.setattr(WeightFiles, "copy", broken)
    for target in ("out", "out.safetensors"):
        assert seqtex("convert", source, tmp_path / target, "--to", "original").code == 1
        assert [path.name for path in tmp_path.iterdir()] == ["diffusers"]


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


def drop(state: dict[str, Tensor]) -> None:
    del state["blocks.0.attn1.norm_q.weight"]


def add(state: dict[str, Tensor]) -> None:
    state["blocks.0.extra"] = torch.zeros(1)


def reshape(state: dict[str, Tensor]) -> None:
    state["blocks.1.ffn.net.2.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "told"),
    [(drop, "1 missing"), (add, "1 unexpected"), (reshape, "1 misshapen")],
)
def test_partial_weights_are_refused_before_anything_is_written(
    seqtex: Seqtex, tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], told: str
) -> None:
    for name, state in (("wan", state_of(WAN_TINY.config)), ("seqtex", released_state(SIZES))):
        damaged = dict(state)
        key = "blocks.1.ffn.net.2.base_layer.bias"
        if name == "seqtex" and damage is reshape:
            damaged[key] = torch.zeros(3)
        else:
            damage(damaged)
        save_file(damaged, tmp_path / f"{name}.safetensors")
        words = ["--to", "released" if name == "seqtex" else "original", "--head-dim", "24"]
        outcome = seqtex("convert", tmp_path / f"{name}.safetensors", tmp_path / "out", *words)
        assert outcome.code == 4
        assert told in outcome.err
        assert not (tmp_path / "out").exists()


def test_what_a_layout_cannot_hold(seqtex: Seqtex, tmp_path: Path) -> None:
    wan = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    for to in ("released", "seqtex", "lora"):
        outcome = seqtex("convert", wan, tmp_path / "out", "--to", to)
        assert outcome.code == 2
        assert "no texture branch" in outcome.err
    released = released_folder(tmp_path / "released")
    assert seqtex("convert", released, tmp_path / "model", "--to", "seqtex").code == 0
    record = json.loads((tmp_path / "model" / "seqtex.json").read_text())
    record["decoupled"]["geometry_order"] = "post_rope"
    (tmp_path / "model" / "seqtex.json").write_text(json.dumps(record))
    outcome = seqtex("convert", tmp_path / "model", tmp_path / "out", "--to", "released")
    assert outcome.code == 2
    assert "pre_rope" in outcome.err
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    outcome = seqtex(
        "convert", tmp_path / "other.safetensors", tmp_path / "out", "--to", "original"
    )
    assert outcome.code == 4
    assert "a.weight" in outcome.err
    assert seqtex("convert", tmp_path / "nowhere", tmp_path / "out", "--to", "lora").code == 3


def test_options_that_would_change_nothing_are_refused(seqtex: Seqtex, tmp_path: Path) -> None:
    wan = diffusers_folder(tmp_path / "diffusers", WAN_TINY.config)
    released = released_folder(tmp_path / "released")
    out, alpha = tmp_path / "out", ["--lora-alpha", "2"]
    assert seqtex("convert", released, tmp_path / "model", "--to", "seqtex", *alpha).code == 0
    for source, words in (
        (wan, ["--to", "original", "--head-dim", "24"]),
        (wan, ["--to", "original", *alpha]),
        (wan, ["--to", "original", "--vae", wan]),
        (released, ["--to", "seqtex", "--head-dim", "24"]),
        (tmp_path / "model", ["--to", "released", "--head-dim", "24"]),
        (tmp_path / "model", ["--to", "released", *alpha]),
        (tmp_path / "model", ["--to", "lora", "--vae", wan]),
    ):
        refused = seqtex("convert", source, out, *words)
        assert refused.code == 2, words
        assert f"Error: {words[2]}" in refused.err
    assert not out.exists()


def test_a_vae_that_is_not_there_or_of_other_latents(seqtex: Seqtex, tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).save_pretrained(tmp_path / "vae")
    released, out = released_folder(tmp_path / "released"), tmp_path / "out"
    other = seqtex("convert", released, out, "--to", "seqtex", "--vae", tmp_path / "vae")
    assert other.code == 2
    assert "16 latent channels" in other.err
    missing = seqtex("convert", released, out, "--to", "seqtex", "--vae", tmp_path / "nowhere")
    assert missing.code == 3
    assert "no such folder" in missing.err
    assert "Warning" not in missing.err
    assert not out.exists()


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


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5TB", "five"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--shard-size"):
        parse_size("--shard-size", text)
