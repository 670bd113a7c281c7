"""The model path as a function: a prepared job in, a textured result out.

Messages name options of the command line; :class:`~seqtex.pipeline.SeqTexPipeline` says them in the
library's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_geometry.maps import SurfaceMaps

from .detail import with_detail
from .foreground import told
from .fusion import CANDIDATES
from .generate import Generated, GenerateSettings, generate
from .models import approximations
from .models.catalog import CATALOG
from .models.config import ModelConfig
from .models.graphs import check_graph
from .models.load import SeqTexModel
from .models.run_sizes import check_enlarges
from .out_of_memory import naming_smaller_setting
from .prepare import PreparedJob
from .result import ResultMaps, TextureResult
from .run_options import RunOptions
from .stages import OnProgress, StageClock
from .unseen_sets import fill_unseen_sets


def check_run(
    model: SeqTexModel, options: RunOptions, *, task: str | None, prompt: str | None
) -> None:
    """Refuse what a model cannot do, before anything is prepared or computed.

    Args:
        model: that will run.
        options: as given.
        task: as given.
        prompt: as given.

    Raises:
        UsageError: options, a task or a prompt that the model cannot use.
        UnsupportedError: a CUDA graph without CUDA.
    """
    options.check(prompt=prompt)
    model.check_task(task)
    model.check_prompt(prompt)
    if options.cuda_graph:
        check_graph(model.device, step_reuse=options.step_reuse)
    model.check_sizes(**{"--view-size": options.view_size, "--uv-size": options.uv_size})
    check_enlarges("--texture-size", options.texture_size, options.uv_size or model.config.uv_size)
    steps = options.steps or model.config.sampling.steps
    if options.step_reuse is not None and steps < 2:
        raise UsageError(
            "--step-reuse",
            expected="several steps, of which one can repeat another",
            got=str(steps),
            remedy="Leave --step-reuse out, or take more --steps.",
        )


def texture_job(
    model: SeqTexModel,
    job: PreparedJob,
    *,
    task: str | None = None,
    seed: int = 0,
    prompt: str | None = None,
    options: RunOptions | None = None,
    on_progress: OnProgress | None = None,
) -> TextureResult:
    """What a model makes of a job.

    Args:
        model: that runs.
        job: the mesh and its references.
        task: registered task; the model's own if ``None``.
        seed: of all noise.
        prompt: text, for models that read it.
        options: defaults to ``RunOptions()``.
        on_progress: told about stages: name, steps done, steps in all.

    Raises:
        UsageError: see :func:`check_run`; or references that the task cannot use.
        UnsupportedError: see :func:`check_run`.
        OutOfMemoryError: the device is too small for these sizes.
    """
    options = options or RunOptions()
    check_run(model, options, task=task, prompt=prompt)
    settings = _settings(model.config, options, task=task, seed=seed, prompt=prompt)
    size = _texture_size(model.config, options, job)
    clock = StageClock(on_progress)
    with naming_smaller_setting(lambda: _smaller(model, settings)):
        made = generate(model, job, settings, clock)
        textures, uv_maps = _at_size(size, job, made, settings, clock)
    return TextureResult.of(
        job,
        textures,
        method="model",
        settings=_record(model, settings, texture_size=size),
        choices={
            **model_choices(model, prompt),
            **_tokens(model.config, made.shares),
            **approximations.told(
                fp8_layers=model.fp8_layers, threshold=settings.step_reuse, calls=made.calls
            ),
        },
        stage_seconds=clock.times,
        views=made.views,
        maps=ResultMaps(views=made.view_maps, textures=uv_maps),
    ).with_model(model.record, task=settings.task, seed=seed)


def model_choices(model: SeqTexModel, prompt: str | None) -> dict[str, str]:
    """What is said of a model before and after a run: its weights, its text, its memory."""
    said = {"model": f"{model.config.name} ({model.state})"}
    if model.config.text_encoder is not None or model.record.name in CATALOG:
        said["text"] = model.text_state(prompt)
    if model.record.name not in CATALOG and model.is_trained:
        said["about"] = model.config.summary
    if model.fusion is not None:
        said["unseen"] = f"weighed among {len(CANDIDATES)} ways to continue what is shown"
    if model.memory is not None:
        said["memory"] = str(model.memory)
    return said


def _settings(
    config: ModelConfig,
    options: RunOptions,
    *,
    task: str | None,
    seed: int,
    prompt: str | None,
) -> GenerateSettings:
    """Options with the model's own where none are given."""
    sampling = config.sampling
    return GenerateSettings(
        task=config.task if task is None else task,
        steps=sampling.steps if options.steps is None else options.steps,
        seed=seed,
        view_size=config.view_size if options.view_size is None else options.view_size,
        uv_size=config.uv_size if options.uv_size is None else options.uv_size,
        sampler=sampling.sampler,
        shift=sampling.shift if options.shift is None else options.shift,
        prompt=prompt,
        guidance=options.guidance,
        foreground=_margin(model_margin=config.foreground, asked=options.foreground),
        step_reuse=options.step_reuse,
        cuda_graph=options.cuda_graph,
    )


def _texture_size(config: ModelConfig, options: RunOptions, job: PreparedJob) -> int:
    """Edge of the result."""
    if options.texture_size is not None:
        return options.texture_size
    if options.uv_size is None and config.texture_size is not None and job.references:
        return config.texture_size
    return options.uv_size or config.uv_size


def _at_size(
    size: int, job: PreparedJob, made: Generated, settings: GenerateSettings, clock: StageClock
) -> tuple[tuple[Tensor, ...], Sequence[SurfaceMaps]]:
    """The textures at the size of the result, and their maps."""
    if size != settings.uv_size and made.textures:
        return with_detail(job, made, size, clock)
    return fill_unseen_sets(made.textures, made.uv_maps, made.shown), made.uv_maps


def _record(
    model: SeqTexModel, settings: GenerateSettings, *, texture_size: int
) -> dict[str, object]:
    """Settings for the manifest, which has task and seed in places of their own."""
    return {
        **{k: v for k, v in asdict(settings).items() if k not in ("task", "seed")},
        "texture_size": texture_size,
        "dtype": str(model.dtype),
        "memory": _memory(model),
        "fp8": bool(model.fp8_layers),
    }


def _margin(*, model_margin: int | None, asked: bool | None) -> int | None:
    """Margin around the tokens that touch the surface; ``None`` for all tokens."""
    if asked is None:
        return model_margin
    return (model_margin or 0) if asked else None


def _tokens(config: ModelConfig, shares: Mapping[str, float] | None) -> dict[str, str]:
    """What is said of the tokens; nothing where all are computed, as ever."""
    if config.foreground is None and shares is None:
        return {}
    return {"tokens": told(shares, config.foreground, copies=config.decoupled.copy is not None)}


def _memory(model: SeqTexModel) -> dict[str, object] | None:
    plan = model.memory
    if plan is None:
        return None
    return {"budget_gib": plan.budget, "expected_bytes": plan.peak, **asdict(plan.measures)}


def _smaller(model: SeqTexModel, settings: GenerateSettings) -> str:
    """The next setting to try when memory ran out."""
    plan = None if model.memory is None else model.memory.smaller()
    if plan is not None:
        return f"Use --memory {plan.budget}: {'; '.join(plan.costs())}."
    view, uv = max(settings.view_size // 2, 64), max(settings.uv_size // 2, 64)
    wide = model.dtype == torch.float32
    return f"Use --view-size {view} --uv-size {uv}" + (", or --dtype bfloat16." if wide else ".")
