"""Tiny training runs, shared by tests and by the processes that tests start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from seqtex.training.batch import SOURCES, TrainingBatch
from seqtex.training.config import (
    DataSection,
    EmaSection,
    LossSection,
    ModelSection,
    OutputSection,
    RunSection,
    StageSection,
    TrainingConfig,
)
from seqtex.training.optimizer import OptimizerConfig
from seqtex.training.parallel import Parallel, SingleProcess
from seqtex.training.run import Run
from seqtex.training.run_setup import set_up_run
from seqtex.training.sphere_source import SphereSource
from seqtex.training.starting_point import model_config
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_core.tasks import TEXTURE, VIEWS
from seqtex_core.weight_files import write_tensors

MODEL = {
    "view_size": 8,
    "uv_size": 16,
    "decoupled": {"copy": "none"},
    "backbone": {
        "config": {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "ffn_dim": 32,
        }
    },
}


def tiny_config(steps: int = 8, **run: object) -> TrainingConfig:
    """Two stages, two tasks, four samples a step; Adam's eps makes it smooth in the gradients."""
    stages = (
        StageSection(steps=steps // 2, tasks={"img2tex": 1}, learning_rate=1e-3, warmup_steps=2),
        StageSection(
            steps=steps - steps // 2,
            tasks={"img2tex": 3, "geo2mv": 2},
            learning_rate=5e-4,
            warmup_steps=1,
            views_given=(1.0, 1.0),
        ),
    )
    return TrainingConfig(
        data=DataSection(source="sphere"),
        stages=stages,
        seed=5,
        model=ModelSection(overrides=MODEL, name="tiny-test"),
        optimizer=OptimizerConfig(eps=1e-3),
        loss=LossSection(uv_weight=2.0),
        ema=EmaSection(sigma_rels=(0.05, 0.1), snapshot_every=2),
        run=RunSection(batch_size=4, **run),  # type: ignore[arg-type]
        output=OutputSection(
            log_every=3,
            checkpoint_every=3,
            checkpoint_minutes=0,
            preview_count=0,
            storage="fp32",
            tensorboard="off",
        ),
    )


def with_lora(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The same run with adapters on a frozen backbone, whose weights are written to ``folder``."""
    changed = {**MODEL, "decoupled": {"copy": "none", "mv_train": "lora", "lora_rank": 2}}
    section = replace(config.model, overrides=changed)
    model = model_config(replace(config, model=section))
    path = folder / "backbone.safetensors"
    write_tensors(path, native_tensors(load_backbone(entry_from_config(model.backbone), seed=3)))
    return replace(config, model=replace(section, backbone_weights=str(path)))


class SeenSphere(SphereSource):
    """The sphere, of which every view sees what faces it."""

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        return _seen(super().batch(indices, task))

    def preview(self, count: int) -> TrainingBatch:
        return _seen(super().preview(count))


def _seen(batch: TrainingBatch) -> TrainingBatch:
    normal, views = batch.groups[TEXTURE].normal[:, 0], batch.groups[VIEWS].normal
    toward = views.mean(dim=(-1, -2))
    return replace(batch, visible=torch.einsum("bchw,bvc->bvhw", normal, toward) > 0.2)


SOURCES.register("seen sphere", SeenSphere)


def with_copies(config: TrainingConfig) -> TrainingConfig:
    """The same run with a copy head, which one of the two tasks has nothing to do for."""
    changed = {**MODEL, "decoupled": {"copy": {"heads": 3, "content": 4}}}
    tasks = ({"img2tex_projected": 1}, {"img2tex_projected": 3, "geo2mv": 2})
    return replace(
        config,
        model=replace(config.model, overrides=changed),
        data=replace(config.data, source="seen sphere"),
        stages=tuple(replace(s, tasks=t) for s, t in zip(config.stages, tasks, strict=True)),
    )


def make_run(
    config: TrainingConfig,
    folder: Path,
    *,
    parallel: Parallel | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Run:
    """The run, on one CPU process unless told otherwise."""
    return set_up_run(config, folder, parallel or SingleProcess(torch.device("cpu")), say=say)
