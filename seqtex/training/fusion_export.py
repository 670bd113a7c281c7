"""A model folder with a fusion beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..fusion import Fusion, save_fusion
from ..models.config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME, ModelConfig
from ..models.folder import CONFIG_NAME
from ..outputs import staged
from .export import TRAINING_RECORD


def write_with_fusion(folder: Path, base: Path, fusion: Fusion, record: Mapping[str, Any]) -> None:
    """Copy a model and add a fusion; all or nothing.

    Args:
        folder: where to; replaced files are ours.
        base: folder of the model.
        fusion: fitted to it.
        record: how it was fitted.
    """
    config = ModelConfig.read(base)
    hidden = fusion.layers[0].out_features
    trained: dict[str, Any] = {}
    if (base / TRAINING_RECORD).is_file():
        trained = json.loads((base / TRAINING_RECORD).read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    with staged(folder) as scratch:
        for name in (WEIGHTS_NAME, CODEC_WEIGHTS_NAME):
            if (base / name).is_file():
                shutil.copyfile(base / name, scratch / name)
        _write_json(scratch / CONFIG_NAME, replace(config, fusion={"hidden": hidden}).to_json())
        _write_json(scratch / TRAINING_RECORD, {**trained, "fusion": dict(record)})
        save_fusion(fusion, scratch)
    if config.text_encoder is not None and not (folder / config.text_encoder).exists():
        place = (base / config.text_encoder).resolve()
        (folder / config.text_encoder).symlink_to(place, target_is_directory=True)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
