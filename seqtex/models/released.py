"""The preset of the released weights: everything that they expect, under one name.

Source:
    SeqTex (arXiv 2507.04285) and its released inference settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqtex_backbones.codecs.protocol import RELEASED_RANGES
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.seqtex_release import (
    RELEASED_BACKBONE,
    RELEASED_DECOUPLED,
    load_released,
)
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.transformer import SeqTexTransformer

from .config import ModelConfig, SamplingDefaults

RELEASED_SHIFT = 3.0
"""Flow shift that the released system samples at: its sampler's default stayed in force."""

PAPER_SHIFT = 5.0
"""Flow shift that the paper names."""


def released_model_config(
    *,
    shift: float = RELEASED_SHIFT,
    decoupled: DecoupledConfig = RELEASED_DECOUPLED,
    backbone: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    text_encoder: str | None = None,
) -> ModelConfig:
    """The config of a model with the released weights.

    In ``decoupled``: geometry before RoPE, raw post-attention keys, shared parts, rank 128, alpha
    64. In ``codec``: colours and maps in [0, 1], sampled latents. In ``sampling``: UniPC with 30
    steps, whole timesteps, fresh condition noise in every step. The cameras are those of
    ``CameraRig.seqtex``, which every job has.

    Args:
        shift: flow shift of sampling: ``RELEASED_SHIFT`` or ``PAPER_SHIFT``. The conditions' level
            is that of shift 5 in either case.
        decoupled: another doubling, for models of the same layout.
        backbone: settings of the backbone; ``RELEASED_BACKBONE`` by default.
        vae: sizes of the VAE; those of Wan2.1 by default.
        text_encoder: folder of the text encoder in a model folder. Without one all text rows are
            zero, which the released weights have not seen: they read the encoded empty prompt.
    """
    return ModelConfig(
        name="seqtex-released",
        summary="The released SeqTex weights on Wan2.1 1.3B: four views of 512 pixels and a "
        "texture of 1024 texels from one reference image.",
        backbone=dict(backbone or {"name": RELEASED_BACKBONE}),
        codec={
            "codec": "wan_vae",
            "vae": dict(vae or {}),
            "ranges": RELEASED_RANGES.to_config(),
            "sample_posterior": True,
            "frames_per_chunk": 1,
        },
        decoupled=decoupled,
        task="img2tex",
        view_size=512,
        uv_size=1024,
        sampling=SamplingDefaults(
            sampler="unipc",
            steps=30,
            shift=shift,
            shared_condition_noise=False,
            whole_timesteps=True,
        ),
        text_encoder=text_encoder,
        dtype="bfloat16",
    )


def on_released(config: ModelConfig, weights: Path, *, dtype: torch.dtype) -> SeqTexTransformer:
    """The transformer of a checkpoint in the released layout, for a model config like the preset.

    Args:
        config: of the model.
        weights: see ``load_released``.
        dtype: of the parameters, but for those that the backbone keeps in fp32.

    Raises:
        WeightsError: see ``load_released``.
    """
    entry = entry_from_config(config.backbone)
    return load_released(weights, model=entry, config=config.decoupled, dtype=dtype)
