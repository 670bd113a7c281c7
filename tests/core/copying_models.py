"""What the tests of models with a copy head share: a tiny model, its scene, tokens to keep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqtex_backbones.entry_config import entry_from_config
from seqtex_core.copy_head import CopyConfig
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.frame_plan import DEFAULT_STREAMS
from seqtex_core.frames import TokenLayout
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS
from seqtex_core.transformer import SeqTexTransformer

SIZES = {VIEWS: (2, 3, 3), PROJECTION: (1, 5, 4), TEXTURE: (1, 5, 4)}
CHANNELS = 6
SIGMA = 0.8


def make(copy: CopyConfig | None, **options: Any) -> SeqTexTransformer:
    sizes = {
        "patch_size": [1, 1, 1],
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "text_length": 1,
    }
    entry = entry_from_config({"name": "copying", "architecture": "wan", "config": sizes})
    torch.manual_seed(0)
    config = DecoupledConfig(mv_train="full", copy=copy, **options)
    model = SeqTexTransformer(entry.build(), config)
    if model.copy_head is not None:
        torch.manual_seed(1)
        for parameter in model.copy_head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def scene(batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, GeometryLatents]]:
    draw = torch.Generator().manual_seed(2)

    def drawn(channels: int, size: tuple[int, int, int]) -> Tensor:
        return torch.randn(batch, channels, *size, generator=draw)

    latents = {name: drawn(CHANNELS, size) for name, size in SIZES.items()}
    sigmas = {name: torch.full((batch, size[0]), SIGMA) for name, size in SIZES.items()}
    sigmas[PROJECTION].fill_(0.07)
    geometry = {
        name: GeometryLatents(
            position=drawn(CHANNELS, size), normal=drawn(CHANNELS, size), points=drawn(6, size)
        )
        for name, size in SIZES.items()
    }
    return latents, sigmas, geometry


def keeps(batch: int) -> dict[str, list[Tensor]]:
    draw = torch.Generator().manual_seed(3)
    counts = {VIEWS: 18, PROJECTION: 20, TEXTURE: 20}
    return {
        name: [torch.randperm(n, generator=draw)[: n // 2 + row].sort()[0] for row in range(batch)]
        for name, n in counts.items()
    }


def dense(model: SeqTexTransformer) -> TokenLayout:
    return model.layout(SIZES, {name: DEFAULT_STREAMS[name] for name in SIZES})


def known(latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clean latents of the frame, of which the model sees a noisy copy."""
    return {PROJECTION: latents[PROJECTION].roll(1, dims=-1)}
