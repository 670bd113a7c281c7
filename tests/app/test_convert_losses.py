"""``seqtex convert``: what a target cannot hold, or holds already, is not passed over."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from seqtex.models.load import build_transformer
from seqtex.models.released import released_model_config
from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.seqtex_release import RELEASED_DECOUPLED
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_core.checkpoint import save_model

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from released_peer import PeerSizes, released_state

Seqtex = Callable[..., Any]
SIZES = PeerSizes()
CONFIG = replace(RELEASED_DECOUPLED, lora_rank=SIZES.rank, lora_alpha=SIZES.alpha)


def test_a_replaced_model_leaves_nothing_that_is_read_for_the_new_one(
    seqtex: Seqtex, tmp_path: Path
) -> None:
    released, out = tmp_path / "released.safetensors", tmp_path / "out"
    save_file(released_state(SIZES), released)
    alpha = ["--lora-alpha", str(SIZES.alpha), "--head-dim", str(SIZES.head_dim)]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    made = {}
    for to in ("seqtex", "diffusers", "lora", "seqtex", "released"):
        outcome = seqtex("convert", released, out, "--to", to, "--overwrite", *alpha)
        assert outcome.code == 0, outcome.err
        made[to] = {path.name for path in out.iterdir()} - {"notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"
    weights = "diffusion_pytorch_model.safetensors"
    assert made == {
        "seqtex": {"seqtex.json", "model.safetensors"},
        "diffusers": {"config.json", weights},
        "lora": {"pytorch_lora_weights.safetensors"},
        "released": {"config.json", weights},
    }


def test_names_and_number_formats_that_cannot_hold_weights(seqtex: Seqtex, tmp_path: Path) -> None:
    state = {n: t.detach() for n, t in native_tensors(load_backbone("wan-tiny", seed=3)).items()}
    source = tmp_path / "wan.safetensors"
    save_file({**state, "proj_out.bias": torch.full_like(state["proj_out.bias"], 1e6)}, source)
    words = ["--to", "original", "--head-dim", str(WAN_TINY.config.attention_head_dim)]
    outcome = seqtex("convert", source, tmp_path / "out.pt", *words)
    assert outcome.code == 2
    assert "as pickles end" in outcome.err
    outcome = seqtex("convert", source, tmp_path / "out", *words, "--dtype", "float16")
    assert outcome.code == 2
    assert "'head.head.bias'" in outcome.err
    assert "1e+06" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert seqtex("convert", source, tmp_path / "out", *words, "--dtype", "bfloat16").code == 0


def test_what_a_model_predicts_is_not_lost_unsaid(seqtex: Seqtex, tmp_path: Path) -> None:
    settings = {"name": "t", "architecture": "wan"}
    clean = settings | {"config": asdict(replace(WAN_TINY.config, prediction="clean"))}
    config = released_model_config(decoupled=CONFIG, backbone=clean)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "seqtex.json").write_text(json.dumps(config.to_json()))
    save_model(build_transformer(config), folder / "model.safetensors")
    outcome = seqtex("convert", folder, tmp_path / "released", "--to", "released")
    assert outcome.code == 2
    assert "predicts 'clean'" in outcome.err
    outcome = seqtex("convert", folder, tmp_path / "wan", "--to", "diffusers")
    assert outcome.code == 0
    assert "it predicts 'clean', where Wan predicts the velocity" in outcome.err
