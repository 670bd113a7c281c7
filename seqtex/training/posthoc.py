"""A model with another averaging length, made from the snapshots of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seqtex_core.errors import InputError
from seqtex_core.weight_files import WeightFiles

from ..models.config import WEIGHTS_NAME, ModelConfig
from ..models.load import load_codec
from .ema_synthesis import Mixture, Profile, synthesis_weights
from .export import STORAGE_DTYPES, TRAINING_RECORD, write_model
from .run import MODEL, SNAPSHOTS

_NAME = re.compile(r"step-(\d{9})\.safetensors")


def export_average(
    run: Path,
    folder: Path,
    *,
    sigma_rel: float,
    step: int | None = None,
    storage: Literal["fp32", "fp16", "bf16"] = "fp16",
) -> Mixture:
    """Write a model folder with the average of any width; says how well snapshots gave it.

    Args:
        run: folder of a run that kept snapshots and exported a model.
        folder: of the new model.
        sigma_rel: width of the profile.
        step: up to which step; the last snapshot if not given.
        storage: number format of the weights.

    Raises:
        InputError: no snapshots, or no exported model.
        UsageError: a width out of range.
    """
    profiles, sources = _snapshots(run / SNAPSHOTS)
    last = max(profile.step for profile in profiles)
    wanted = Profile(step=step or last, sigma_rel=sigma_rel)
    mixture = synthesis_weights(profiles, wanted)
    base = run / MODEL
    if not (base / WEIGHTS_NAME).is_file():
        raise InputError(str(base), expected="the model that the run exported", got="no weights")
    with WeightFiles([base / WEIGHTS_NAME]) as files:
        weights = {name: files.read(name) for name in files}
    weights |= _sum(sources, mixture)
    weights = {name: tensor.to(STORAGE_DTYPES[storage]) for name, tensor in weights.items()}
    record = json.loads((base / TRAINING_RECORD).read_text(encoding="utf-8"))
    record |= {"step": wanted.step, "ema_sigma_rel": sigma_rel, "ema_fit_error": mixture.error}
    config = ModelConfig.read(base)
    text = None if config.text_encoder is None else base / config.text_encoder
    write_model(folder, config, weights, record, codec=load_codec(base, config), text_encoder=text)
    return mixture


def _snapshots(folder: Path) -> tuple[list[Profile], list[tuple[Path, str]]]:
    profiles, sources = [], []
    for path in sorted(folder.glob("step-*.safetensors")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        with WeightFiles([path]) as files:
            for width in sorted({name.split("/")[0] for name in files}):
                profiles.append(Profile(step=int(match.group(1)), sigma_rel=float(width)))
                sources.append((path, width))
    if not profiles:
        raise InputError(
            str(folder),
            expected="snapshots of the averages",
            got="none",
            remedy="Set snapshot_every in [ema] before training.",
        )
    return profiles, sources


def _sum(sources: list[tuple[Path, str]], mixture: Mixture) -> dict[str, Tensor]:
    summed: dict[str, Tensor] = {}
    for (path, width), weight in zip(sources, mixture.weights, strict=True):
        if weight == 0.0:
            continue
        with WeightFiles([path]) as files:
            for key in files:
                owner, name = key.split("/", 1)
                if owner == width:
                    term = files.read(key).to(torch.float64) * weight
                    summed[name] = summed[name] + term if name in summed else term
    return summed
