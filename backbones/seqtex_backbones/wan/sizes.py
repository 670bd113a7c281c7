"""Sizes of a Wan transformer read off its weights, and the authors' way to write them down."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from seqtex_core.errors import WeightsError

from .configs import WanConfig

HEAD_DIM = 128
"""Channels per head of all released Wan models; shapes do not show it."""

_EMBEDDER = "condition_embedder"
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def wan_config_of(
    shapes: Mapping[str, tuple[int, ...]], *, head_dim: int = HEAD_DIM, subject: str
) -> WanConfig:
    """The sizes of the model that has these weights.

    Args:
        shapes: by diffusers' names; others are ignored.
        head_dim: channels per head.
        subject: what the weights are called.

    Raises:
        WeightsError: not weights of a Wan transformer, or a width that the head does not divide.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise WeightsError(subject, expected=f"a Wan transformer, with {name}", got="none")
        return shapes[name]

    dim, in_channels, *patch = shape("patch_embedding.weight")
    if dim % head_dim or len(patch) != 3:
        raise WeightsError(
            subject,
            expected=f"a width that is a multiple of the head's {head_dim} channels",
            got=str(dim),
            remedy="Give the channels per head (--head-dim).",
        )
    blocks = {int(match[1]) for name in shapes if (match := _BLOCK.match(name))}
    image = shapes.get(f"{_EMBEDDER}.image_embedder.norm1.weight")
    added = shapes.get("blocks.0.attn2.add_k_proj.weight")
    position = shapes.get(f"{_EMBEDDER}.image_embedder.pos_embed")
    return WanConfig(
        num_attention_heads=dim // head_dim,
        attention_head_dim=head_dim,
        num_layers=len(blocks),
        ffn_dim=shape("blocks.0.ffn.net.0.proj.weight")[0],
        in_channels=in_channels,
        out_channels=shape("proj_out.weight")[0] // math.prod(patch),
        patch_size=(patch[0], patch[1], patch[2]),
        text_dim=shape(f"{_EMBEDDER}.text_embedder.linear_1.weight")[1],
        freq_dim=shape(f"{_EMBEDDER}.time_embedder.linear_1.weight")[1],
        image_dim=image[0] if image else None,
        added_kv_proj_dim=added[1] if added else None,
        pos_embed_seq_len=position[1] if position else None,
    )


def original_config_json(config: WanConfig) -> dict[str, Any]:
    """The ``config.json`` that the authors put beside a model of these sizes."""
    kind = "t2v"
    if config.pos_embed_seq_len is not None:
        kind = "flf2v"
    elif config.in_channels > config.out_channels:
        kind = "i2v"
    elif config.out_channels == 48:
        kind = "ti2v"
    return {
        "_class_name": "WanModel",
        "model_type": kind,
        "dim": config.num_attention_heads * config.attention_head_dim,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "out_dim": config.out_channels,
        "text_len": config.text_length,
        "eps": config.eps,
    }
