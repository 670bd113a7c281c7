"""One variant with one seed: trained, measured, and kept as one small JSON file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seqtex.evaluation.cases import EvaluationCase
from seqtex.models.load import load_model
from seqtex.training.config import TrainingConfig
from seqtex.training.logs import METRICS
from seqtex.training.parallel import SingleProcess
from seqtex.training.run import Run
from seqtex.training.run_setup import set_up_run
from seqtex.training.tables import from_table
from seqtex.training.trainer import train
from seqtex_core.errors import ContractError
from seqtex_core.weight_files import write_tensors
from seqtex_core.whole_files import replacing

from . import interpolated, source
from .measuring import CanonicalModel, values_of
from .setting import Setting
from .variants import Variant

RESULT, PICTURES = "result.json", "pictures.safetensors"
PICTURED = 6
_SHARE = 0.1


def run_folder(work: Path, variant: Variant, seed: int, setting: Setting) -> Path:
    """Where a run is kept; its name tells apart runs with other settings."""
    slug = re.sub(r"[^a-z0-9]+", "-", variant.name.lower()).strip("-")
    text = json.dumps(_table(variant, seed, setting, work), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return work / "runs" / f"{slug}-seed-{seed}-{digest}"


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or ``None``."""
    path = folder / RESULT
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def run_one(
    variant: Variant, seed: int, setting: Setting, *, work: Path, cases: Sequence[EvaluationCase]
) -> dict[str, Any]:
    """Train and measure, unless that is done already.

    Args:
        variant: what to train.
        seed: of weights, data and noise.
        setting: what all variants share.
        work: folder of the banks and of finished runs.
        cases: objects to measure on.

    Raises:
        ContractError: training was asked to stop.
    """
    folder = run_folder(work, variant, seed, setting)
    table = _table(variant, seed, setting, work)
    done = finished(folder)
    if done is not None:
        return done
    shutil.rmtree(folder, ignore_errors=True)
    interpolated.register()
    source.register()
    config = from_table(TrainingConfig, table, where="ablation:")
    run = set_up_run(config, folder, SingleProcess(torch.device("cpu")), say=lambda text: None)
    start = time.process_time()
    result = train(run, resume=False, say=lambda text: None)
    seconds = time.process_time() - start - _painting_seconds(run)
    if result.model is None:
        raise ContractError(
            f"variant {variant.name!r}",
            expected="training to its end",
            got=f"a stop at step {result.step}",
            remedy="Run the same command again; finished runs are kept.",
        )
    record = {
        "variant": variant.name,
        "seed": seed,
        "folder": folder.name,
        "table": table,
        "stages": [{"tasks": dict(s.tasks), "steps": s.steps} for s in config.stages],
        "parameters": sum(p.numel() for p in run.state.parameters.values()),
        "training_cpu_seconds": seconds,
        "losses": final_losses(folder / METRICS),
    }
    record |= _measured(variant, config, setting, folder=folder, cases=cases)
    for name in ("checkpoints", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with replacing(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")
    return record


def final_losses(path: Path) -> dict[str, dict[str, float]]:
    """Mean loss by task and group over the first and the last tenth of the task's steps."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, dict[str, float]] = {}
    for task in sorted({row["task"] for row in rows if "task" in row}):
        own = [row for row in rows if row.get("task") == task]
        count = max(1, round(_SHARE * len(own)))
        for group in ("views", "texture"):
            values = [row[group] for row in own if group in row]
            if values:
                found[f"{task} {group}"] = {
                    "first": sum(values[:count]) / count,
                    "last": sum(values[-count:]) / count,
                }
    return found


def _table(variant: Variant, seed: int, setting: Setting, work: Path) -> dict[str, Any]:
    return variant.table(setting, seed, work=str(work.resolve()))


def _measured(
    variant: Variant,
    config: TrainingConfig,
    setting: Setting,
    *,
    folder: Path,
    cases: Sequence[EvaluationCase],
) -> dict[str, Any]:
    model = load_model(folder / "model")
    start = time.process_time()
    values = {}
    for steps in setting.sampling_steps:
        method = CanonicalModel(
            model=model,
            steps=steps,
            coarse=int(config.data.options.get("coarse_texture", 1)),
            makes_views=variant.makes_views,
        )
        made = method(cases)
        values[str(steps)] = values_of(cases, made)
        if steps == setting.sampling_steps[0]:
            shown = torch.stack([one.texture for one in made[:PICTURED]])
            write_tensors(folder / PICTURES, {"textures": shown.half()})
    return {"values": values, "measuring_cpu_seconds": time.process_time() - start}


def _painting_seconds(run: Run) -> float:
    painted = run.source
    return painted.painting_seconds if isinstance(painted, source.AblationSource) else 0.0
