"""The transformer of a run with its first weights."""

from __future__ import annotations

import torch

from seqtex_core import checkpoint
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..models.config import WEIGHTS_NAME
from ..models.load import DTYPES, build_transformer
from .config import ModelSection, TrainingConfig
from .starting_point import StartingPoint


def first_transformer(config: TrainingConfig, point: StartingPoint) -> SeqTexTransformer:
    """The transformer at step 0.

    What trains is fp32; what is frozen is in the model's own dtype under ``precision = "bf16"``.

    Args:
        config: of the run.
        point: what it starts from.

    Raises:
        WeightsError: weights that are missing or do not fit.
        UsageError: weights asked for twice, or frozen weights that would be random.
    """
    section, model = config.model, point.model
    _check_weights(section, point)
    dtype = torch.float32 if config.run.precision == "fp32" else DTYPES[model.dtype]
    if point.backbone_weights is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(model.seed)
            transformer = point.load(model, point.backbone_weights, dtype=dtype)
    else:
        transformer = build_transformer(model)
    if section.weights == "base":
        assert point.folder is not None, "checked above"
        checkpoint.load_model(transformer, point.folder / WEIGHTS_NAME)
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
                remedy="foreground = 'none' computes all tokens.",
            )
        transformer.compile_blocks()
    return transformer.train()


def _check_weights(section: ModelSection, point: StartingPoint) -> None:
    """Refuse weights asked for twice, missing ones, and random ones that would stay random."""
    if section.weights == "base":
        if section.backbone_weights is not None:
            raise UsageError(
                "[model] backbone_weights", expected="none with weights = 'base'", got="both"
            )
        if point.folder is None:
            raise UsageError(
                "[model] weights",
                expected="'seed', with backbone_weights: a full-size model's name brings no files",
                got="'base'",
                remedy="To train a model on, give its folder as base.",
            )
        path = point.folder / WEIGHTS_NAME
        if not path.is_file():
            raise WeightsError(str(path), expected="the weights of the base", got="no such file")
    elif section.backbone_weights is None and point.model.decoupled.mv_train == "lora":
        raise UsageError(
            "[model] backbone_weights",
            expected="pretrained weights: mv_train = 'lora' freezes the backbone, whose weights "
            "would stay random",
            got="none",
            remedy="Give backbone_weights or weights = 'base', or train everything: "
            "[model.overrides.decoupled] mv_train = 'full'.",
        )
