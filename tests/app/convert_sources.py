"""Weights in every layout that ``seqtex convert`` reads, shared by its tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.seqtex_release import RELEASED_DECOUPLED, load_released
from seqtex_backbones.wan.configs import WAN_TINY, WAN_TINY_I2V, WanConfig, WanEntry
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


def released_folder(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir()
    state = {key: tensor.to(dtype) for key, tensor in released_state(SIZES).items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    told = {"_class_name": "WanT2TexTransformer3DModel", **WAN_TINY.config.to_diffusers()}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def released_model(folder: Path) -> SeqTexTransformer:
    return load_released(released_folder(folder), config=CONFIG)
