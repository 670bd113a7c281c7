"""A run: what it holds and what it writes."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seqtex_core.errors import UsageError
from seqtex_core.tasks import TEXTURE
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.weight_files import write_tensors

from ..manifest import installed_versions
from ..models.config import ModelConfig
from ..models.load import load_model
from ..records import differences
from .batch import BatchSource
from .batches import BatchShape
from .checkpoints import CheckpointFolder
from .comparison import comparable
from .config import TrainingConfig
from .encode import BatchEncoder
from .export import collect_weights, write_model
from .logs import Say
from .parallel import Parallel
from .sharding import gather
from .state import TrainingState
from .task_mix import TaskMix

SNAPSHOTS = "ema"
CHECKPOINTS = "checkpoints"
MODEL = "model"
PREVIEWS = "previews"

_WORDS = ("config.model.name", "config.model.summary", "model.name", "model.summary")
"""What is said of the model; it may change when a run is resumed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run, ready to train.

    Args:
        folder: everything is written below it.
        config: of the run.
        model: config of the trained model.
        parallel: how processes share the work.
        source: where samples come from.
        encoder: pictures to latents.
        text_folder: of the text encoder that the trained model has, or ``None``.
        transformer: what trains.
        module: the objective as the loop calls it.
        state: all that changes.
        shape: the split of the batch.
        mixes: task mix of every stage.
        untrained: what tells frozen weights and the codec from others.
    """

    folder: Path
    config: TrainingConfig
    model: ModelConfig
    parallel: Parallel
    source: BatchSource
    encoder: BatchEncoder
    text_folder: Path | None
    transformer: SeqTexTransformer
    module: nn.Module
    state: TrainingState
    shape: BatchShape
    mixes: tuple[TaskMix, ...]
    untrained: str

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.parallel.rank == 0

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Where checkpoints go."""
        return CheckpointFolder(self.folder / CHECKPOINTS, keep=self.config.output.keep)

    def save_checkpoint(self, step: int) -> None:
        """Write the state after ``step`` steps; every process must call it."""
        tensors = self.state.collect()
        if self.is_first:
            self.checkpoints.save(step, tensors, self._identity())
        self.parallel.barrier()

    def save_snapshot(self, step: int) -> None:
        """Keep the averages for later synthesis; every process must call it."""
        tensors: dict[str, Tensor] = {}
        average = self.state.average
        for sigma_rel, named in zip(average.sigma_rels, average.averages, strict=True):
            tensors |= {f"{sigma_rel!r}/{name}": gather(t) for name, t in named.items()}
        if self.is_first:
            folder = self.folder / SNAPSHOTS
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / f"step-{step:09d}.safetensors", tensors)

    def export(self, step: int, say: Say) -> Path:
        """Write the model folder and a sample grid; every process must call it."""
        output, folder = self.config.output, self.folder / MODEL
        trained = self.state.average.average(self.config.ema.export_sigma_rel)
        weights = collect_weights(self.transformer, trained, output.storage)
        if self.is_first:
            write_model(
                folder,
                self.model,
                weights,
                self._record(step),
                codec=self.encoder.codec,
                text_encoder=self.text_folder,
            )
            if output.preview_count:
                self._preview(step, folder, say)
        self.parallel.barrier()
        return folder

    def check_same(self, record: dict[str, Any]) -> None:
        """Refuse a checkpoint of a run with other settings.

        Raises:
            UsageError: names what differs.
        """
        mine = json.loads(json.dumps(self._identity()))
        found = differences(mine, {key: record.get(key) for key in mine})
        differing = [name for name in found if name not in _WORDS]
        if differing:
            raise UsageError(
                "--resume",
                expected="the settings that the run was started with",
                got="other " + ", ".join(differing),
                remedy="Restore them, or start a new run in another folder.",
            )

    def _identity(self) -> dict[str, Any]:
        """What must be the same when the run is resumed."""
        return {
            "config": comparable(self.config),
            "model": self.model.to_json(),
            "frozen": self.untrained,
        }

    def _preview(self, step: int, folder: Path, say: Say) -> None:
        from .preview import make_preview, save_preview

        output = self.config.output
        batch = self.source.preview(output.preview_count)
        if TEXTURE not in batch.groups:
            say(f"step {step}: no preview, the data has no textures")
            return
        model = load_model(folder, device=self.parallel.device)
        preview = make_preview(model, batch, steps=output.preview_steps, seed=self.config.seed)
        path = self.folder / PREVIEWS / f"step-{step:09d}.png"
        save_preview(path, batch, preview)
        median, count = float(preview.psnr.median()), len(preview.psnr)
        shown = "one new object" if count == 1 else f"median of {count} new objects"
        say(f"step {step}: {path.name}, texture {median:.2f} dB ({shown})")

    def _record(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "samples": step * self.config.run.batch_size,
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": self.config.to_json(),
            "ema_sigma_rel": self.config.ema.export_sigma_rel,
            "versions": dict(installed_versions()),
            "machine": platform.platform(),
            "processes": self.parallel.world_size,
        }
