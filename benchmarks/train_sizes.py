"""Sizes of the training benchmark: one width, depth and token grid for every backbone family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import BackboneEntry

from .result import Scalar


@dataclass(frozen=True, kw_only=True)
class TrainSize:
    """A model of any family and the pictures it trains on.

    Args:
        heads: attention heads.
        head_dim: channels per head.
        layers: blocks.
        views: number of views.
        view_tokens: rows and columns of a view's token grid.
        uv_tokens: of the texture's.
        num_text: text rows.
        batch: samples.
        lora_rank: inner width of the adapters.
    """

    heads: int = 4
    head_dim: int = 32
    layers: int = 4
    views: int = 4
    view_tokens: int = 8
    uv_tokens: int = 16
    num_text: int = 16
    batch: int = 1
    lora_rank: int = 16

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.heads * self.head_dim

    @property
    def num_tokens(self) -> int:
        """Tokens of all frames."""
        return self.views * self.view_tokens**2 + self.uv_tokens**2

    def parameters(self) -> dict[str, Scalar]:
        """For result rows."""
        return {
            "dim": self.dim,
            "layers": self.layers,
            "batch": self.batch,
            "num_mv": self.views * self.view_tokens**2,
            "num_uv": self.uv_tokens**2,
            "num_text": self.num_text,
            "lora_rank": self.lora_rank,
        }


QUICK_SIZE = TrainSize(layers=2)
SMALL = TrainSize(heads=4, head_dim=64, view_tokens=16, uv_tokens=32, num_text=64)
WIDE = TrainSize(heads=12, head_dim=128, view_tokens=32, uv_tokens=64, num_text=512, lora_rank=128)
"""For GPUs: the width and the tokens of Wan2.1 1.3B, in four layers of every family."""


def family_entry(family: str, size: TrainSize) -> BackboneEntry | None:
    """A backbone of a family in these sizes; ``None`` for families that nobody gave sizes here.

    Args:
        family: registered architecture.
        size: of the model.
    """
    known = _SIZES.get(family)
    if known is None:
        return None
    shared = {
        "num_attention_heads": size.heads,
        "attention_head_dim": size.head_dim,
        "num_layers": size.layers,
    }
    sizes = shared | known(size)
    return entry_from_config({"name": family, "architecture": family, "config": sizes})


def _cogvideox(size: TrainSize) -> dict[str, Any]:
    return {
        "time_embed_dim": size.dim,
        "text_embed_dim": size.dim,
        "max_text_seq_length": size.num_text,
        "use_rotary_positional_embeddings": True,
        "sample_height": 2 * size.uv_tokens,
        "sample_width": 2 * size.uv_tokens,
    }


def _hunyuan_video(size: TrainSize) -> dict[str, Any]:
    spatial = size.head_dim * 3 // 8
    return {
        "num_layers": size.layers // 2,
        "num_single_layers": size.layers - size.layers // 2,
        "num_refiner_layers": 1,
        "text_embed_dim": size.dim,
        "pooled_projection_dim": size.dim,
        "rope_axes_dim": [size.head_dim - 2 * spatial, spatial, spatial],
        "text_length": size.num_text,
    }


_SIZES: Mapping[str, Callable[[TrainSize], dict[str, Any]]] = {
    "wan": lambda size: {
        "ffn_dim": size.dim * 35 // 6,
        "text_dim": size.dim,
        "text_length": size.num_text,
    },
    "cogvideox": _cogvideox,
    "hunyuan-video": _hunyuan_video,
    "mochi": lambda size: {
        "pooled_projection_dim": size.dim * 3 // 4,
        "text_embed_dim": size.dim,
        "time_embed_dim": size.dim,
        "max_sequence_length": size.num_text,
    },
    "ltx-video": lambda size: {
        "caption_channels": size.dim,
        "text_length": size.num_text,
    },
    "cosmos": lambda size: {
        "text_embed_dim": size.dim,
        "adaln_lora_dim": size.dim // 8,
        "extra_pos_embed_type": None,
        "text_length": size.num_text,
    },
}
"""Sizes of a family beyond heads and layers; ratios are those of its released models."""
