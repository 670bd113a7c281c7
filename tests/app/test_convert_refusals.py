"""``seqtex convert``: what it refuses, before anything is written or replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from convert_sources import (
    SIZES,
    Seqtex,
    diffusers_folder,
    read,
    released_folder,
    same,
    state_of,
)
from released_peer import released_state
from safetensors.torch import save_file
from torch import Tensor

from seqtex.cli.convert import parse_size
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_core.errors import UsageError


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


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5TB", "five"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--shard-size"):
        parse_size("--shard-size", text)
