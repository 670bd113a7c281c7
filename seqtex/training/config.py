"""A training run as data: one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from seqtex_core.errors import InputError, UsageError

from .noise_levels import NoiseLevels
from .optimizer import OptimizerConfig
from .ranges import check_ranges, check_tokens
from .tables import from_table

Precision = Literal["fp32", "bf16"]
Strategy = Literal["auto", "single", "ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """What trains.

    Args:
        base: what is built: that of the ``seqtex.json`` of a built-in model or of a model folder,
            relative to the config file; or a full-size model by name.
        overrides: entries of that config replaced, table by table; a backbone or a codec of another
            name replaces the whole table. ``"none"`` for what is not wanted.
        weights: ``"seed"``: random; ``"base"``: those of the model folder.
        backbone_weights: pretrained weights of the backbone: a folder, a safetensors file or a hub
            id; random if not given. Not together with ``weights = "base"``.
        vae_weights: of a full-size model: a folder or a hub id; ``vae/`` in the folder of
            ``backbone_weights`` if not given.
        text_weights: likewise, for captions: a folder with ``text_encoder/`` and ``tokenizer/``;
            ``"none"`` for all-zero text rows.
        name: of the trained model; if not given, that of the base with ``-trained``.
        summary: what the trained model is good and bad for; if not given, what it was made from.
    """

    base: str = "seqtex-tiny"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    weights: Literal["seed", "base"] = "seed"
    backbone_weights: str | None = None
    vae_weights: str | None = None
    text_weights: str | None = None
    name: str | None = None
    summary: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Where samples come from.

    Args:
        source: registered source.
        options: its own.
        prefetch: batches made ahead in a thread; 0 makes them when they are needed.
        cache_latents: folder for encoded pictures and maps, or ``None``.
        caption_dropout: share of captions left out.
    """

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    prefetch: int = 0
    cache_latents: str | None = None
    caption_dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class StageSection:
    """A part of the run with its own tasks and learning rate.

    Args:
        steps: optimizer steps.
        tasks: weights by task.
        learning_rate: the highest.
        name: for logs.
        warmup_steps: straight rise at the start of the stage.
        final_ratio: last learning rate over the highest.
        views_given: weights of 1, 2, ... given views.
        restart_uv: begin with the UV branch a fresh copy of the MV branch, see ``restart_uv``.
    """

    steps: int
    tasks: Mapping[str, float]
    learning_rate: float
    name: str = "train"
    warmup_steps: int = 200
    final_ratio: float = 0.0
    views_given: tuple[float, ...] = (1.0,)
    restart_uv: bool = False


@dataclass(frozen=True, kw_only=True)
class LossSection:
    """What counts how much, besides the noise level.

    Args:
        outside_weight: of texels without surface, against 1 on it.
        uv_weight: of the texture's loss, against 1 for the views.
        relative_floor: count a texture's error relative to the mean square of its own latents (to
            what it differs by from the projection frame, with ``texture_base = "projection"``) with
            this much added, so that objects that are nearly right already count as well as those
            that are far off; errors count as they are if not given.
    """

    outside_weight: float = 0.1
    uv_weight: float = 1.0
    relative_floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class EmaSection:
    """Averages of the weights.

    Args:
        sigma_rels: widths of the tracked profiles.
        export_sigma_rel: which of them becomes the model.
        snapshot_every: steps between snapshots for averages of other lengths; 0 keeps none.
    """

    sigma_rels: tuple[float, ...] = (0.05, 0.1)
    export_sigma_rel: float = 0.05
    snapshot_every: int = 0


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """How the run is carried out; only ``batch_size`` and ``tokens`` change what it learns.

    Args:
        batch_size: samples per optimizer step, over all processes.
        micro_batch: samples per forward and process; the rest is accumulated. 0: all at once.
        precision: ``"bf16"`` computes under autocast; weights stay fp32.
        gradient_checkpointing: recompute each MUV block in the backward pass.
        compile: compile each MUV block.
        strategy: how several processes share the work; ``"auto"`` is DDP if there are several.
        num_threads: of torch on the CPU; 0 leaves torch's choice.
        tokens: by frame group, how many of the tokens that touch the surface are computed of each
            sample, drawn anew every time; all of the groups not named. For models of foreground
            tokens; it changes what is learned.
    """

    batch_size: int = 8
    micro_batch: int = 0
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    strategy: Strategy = "auto"
    num_threads: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OutputSection:
    """What is written, and how often.

    Args:
        log_every: steps between log lines.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: at most this long between checkpoints; 0 counts steps only.
        keep: checkpoints that are kept.
        preview_every: steps between exported models with sample grids; 0 makes none but the last.
        preview_count: objects in a grid.
        preview_steps: sampling steps of a grid.
        storage: number format of the exported weights.
        tensorboard: ``"auto"`` writes them if the package is installed.
    """

    log_every: int = 50
    checkpoint_every: int = 1000
    checkpoint_minutes: float = 10.0
    keep: int = 2
    preview_every: int = 0
    preview_count: int = 6
    preview_steps: int = 10
    storage: Literal["fp32", "fp16", "bf16"] = "fp16"
    tensorboard: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training run.

    Args:
        seed: of everything that is drawn.
        model: what trains.
        data: on what.
        stages: in order.
        noise: distribution and weights of the noise levels.
        loss: weights of the loss.
        optimizer: AdamW.
        ema: averages.
        run: how it is carried out.
        output: what is written.
        folder: relative paths are meant from here.

    Raises:
        UsageError: values that do not go together.
    """

    data: DataSection
    stages: tuple[StageSection, ...]
    seed: int = 0
    model: ModelSection = field(default_factory=ModelSection)
    noise: NoiseLevels = field(default_factory=NoiseLevels)
    loss: LossSection = field(default_factory=LossSection)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaSection = field(default_factory=EmaSection)
    run: RunSection = field(default_factory=RunSection)
    output: OutputSection = field(default_factory=OutputSection)
    folder: str = "."

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("[[stages]]", expected="at least one", got="none")
        check_ranges(self)
        for stage in self.stages:
            if stage.learning_rate <= 0:
                raise UsageError(
                    "[[stages]] learning_rate", expected="above 0", got=f"{stage.learning_rate:g}"
                )
        floor = self.loss.relative_floor
        if floor is not None and floor <= 0:
            raise UsageError("[loss] relative_floor", expected="above 0", got=f"{floor:g}")
        check_tokens(self.run.tokens)
        if self.ema.export_sigma_rel not in self.ema.sigma_rels:
            raise UsageError(
                "[ema] export_sigma_rel",
                expected=f"one of sigma_rels {self.ema.sigma_rels}",
                got=str(self.ema.export_sigma_rel),
            )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[StageSection, int]:
        """The stage of a step, and the step's number within it."""
        ends = list(accumulate(stage.steps for stage in self.stages))
        for stage, end in zip(self.stages, ends, strict=True):
            if step < end:
                return stage, step - end + stage.steps
        raise AssertionError(f"step {step} is beyond the last stage")

    def path(self, text: str) -> Path:
        """A path of the config, relative to its file."""
        return Path(self.folder, text)

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the folder."""
        record = asdict(self)
        del record["folder"]
        return record


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The training config in a TOML file.

    Args:
        path: the file.
        overrides: parsed TOML that replaces entries, table by table.

    Raises:
        InputError: no such file, or not TOML.
        UsageError: unknown keys, or values that cannot be used.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), expected="a TOML file", got=str(error)) from error
    if "folder" in table:
        raise UsageError("folder", expected="no such key", got=repr(table["folder"]))
    table = merge_tables(table, overrides or {})
    return from_table(TrainingConfig, table | {"folder": str(path.parent)}, where="config:")


def merge_tables(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the entries of ``changes`` put in, nested tables merged."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge_tables(below, value) if nested else value  # type: ignore[arg-type]
    return merged
