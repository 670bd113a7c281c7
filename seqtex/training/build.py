"""The model of a run: its config from the base and the overrides, its first weights."""

from __future__ import annotations

from pathlib import Path

import torch

from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import load_backbone
from seqtex_core import checkpoint
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..models.config import WEIGHTS_NAME, ModelConfig
from ..models.folder import BUILT_IN, model_folder
from ..models.load import build_transformer
from .config import TrainingConfig, merge_tables


def model_config(config: TrainingConfig) -> ModelConfig:
    """The config of the model that a run trains.

    Raises:
        WeightsError: no such base, or overrides that are no model config.
    """
    section = config.model
    base = section.base if section.base in BUILT_IN else config.path(section.base)
    record = ModelConfig.read(model_folder(base)).to_json()
    record = merge_tables(record, section.overrides)
    return ModelConfig.from_json(record, source="[model.overrides]")


def text_folder(config: TrainingConfig, model: ModelConfig) -> Path | None:
    """Folder of the model's text encoder, in that of the base; ``None`` without text."""
    if model.text_encoder is None:
        return None
    base = config.model.base
    return model_folder(base if base in BUILT_IN else config.path(base)) / model.text_encoder


def first_transformer(config: TrainingConfig, model: ModelConfig) -> SeqTexTransformer:
    """The transformer at step 0; what trains is fp32.

    Raises:
        WeightsError: weights that are missing or do not fit.
        UsageError: weights asked for twice.
    """
    section = config.model
    if section.backbone_weights is not None and section.weights == "base":
        raise UsageError(
            "[model] backbone_weights", expected="none with weights = 'base'", got="both"
        )
    if section.backbone_weights is not None:
        transformer = _on_backbone(config, model, section.backbone_weights)
    else:
        transformer = build_transformer(model)
    if section.weights == "base":
        base = section.base if section.base in BUILT_IN else config.path(section.base)
        path = model_folder(base) / WEIGHTS_NAME
        if not path.is_file():
            raise WeightsError(str(path), expected="the weights of the base", got="no such file")
        checkpoint.load_model(transformer, path)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    transformer.gradient_checkpointing = config.run.gradient_checkpointing
    if config.run.compile:
        if model.foreground is not None:
            raise UsageError(
                "[run] compile",
                expected="false with [model.overrides] foreground: every batch has other lengths",
                got="true",
            )
        transformer.compile_blocks()
    return transformer.train()


def _on_backbone(config: TrainingConfig, model: ModelConfig, weights: str) -> SeqTexTransformer:
    local = config.path(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        backbone = load_backbone(
            entry_from_config(model.backbone), weights=local if local.exists() else weights
        )
        return SeqTexTransformer(backbone, model.decoupled)
