"""A trained model as a folder that ``seqtex texture --model`` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqtex_core.checkpoint import save_model, unique_tensors
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.weight_files import write_tensors

from ..models.config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME, ModelConfig
from ..models.folder import CONFIG_NAME
from ..outputs import staged
from .config import ModelSection
from .sharding import gather

TRAINING_RECORD = "training.json"
Storage = Literal["fp32", "fp16", "bf16"]
STORAGE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def collect_weights(
    transformer: SeqTexTransformer, trained: Mapping[str, Tensor], storage: Storage
) -> dict[str, Tensor]:
    """All weights of the model on the CPU, the trained ones replaced; every process must call it.

    Args:
        transformer: the model in training.
        trained: averages, by parameter name.
        storage: number format.
    """
    weights = {}
    for name, tensor in unique_tensors(transformer).items():
        weights[name] = gather(trained.get(name, tensor)).to(STORAGE_DTYPES[storage])
    return weights


def write_model(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any],
    *,
    codec: object = None,
    text_encoder: Path | None = None,
) -> None:
    """Write ``seqtex.json``, ``model.safetensors`` and ``training.json``; all or nothing.

    Args:
        folder: replaced files are ours.
        config: of the model.
        weights: from :func:`collect_weights`.
        record: how it was trained.
        codec: the model's; its weights are written too, if it is a network.
        text_encoder: folder of the model's, which is linked, not copied: it is far larger than all
            the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with staged(folder) as scratch:
        text = json.dumps(config.to_json(), indent=2)
        (scratch / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        write_tensors(scratch / WEIGHTS_NAME, weights)
        if isinstance(codec, nn.Module):
            save_model(codec, scratch / CODEC_WEIGHTS_NAME)
        text = json.dumps(dict(record), indent=2, sort_keys=True)
        (scratch / TRAINING_RECORD).write_text(text + "\n", encoding="utf-8")
    if text_encoder is not None and config.text_encoder is not None:
        link = folder / config.text_encoder
        if link.is_symlink():
            link.unlink()
        if not link.exists():
            link.symlink_to(text_encoder.resolve(), target_is_directory=True)


def trained_config(base: ModelConfig, section: ModelSection) -> ModelConfig:
    """The base's config under the name and summary of the trained model, without its fusion.

    What the base says of itself is not said of another model: how long it was trained, and what it
    is good for. A fusion knows how far to trust the model that it was fitted to; `seqtex
    train-fusion` fits another.
    """
    start = "from its weights" if section.weights == "base" else "from nothing"
    return replace(
        base,
        name=section.name or f"{base.name}-trained",
        summary=section.summary or f"Built as {base.name}, trained {start} with `seqtex train`.",
        fusion=None,
    )
