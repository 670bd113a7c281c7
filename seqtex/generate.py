"""The model path: maps and references in, views and textures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_backbones.unipc import SAMPLERS
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_plan import DEFAULT_STREAMS, FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.guidance import with_guidance
from seqtex_core.sampling import PredictVelocity, StepReport, sample
from seqtex_core.tasks import PROJECTION, REFERENCE_TASKS, TASKS, TEXTURE, VIEWS
from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.seams import pad_seams

from .conditions import Conditions, encode_conditions
from .foreground import Foreground
from .latents import decode_images
from .models.approximations import repeating_steps
from .models.config import SamplingDefaults
from .models.graphs import calling
from .models.load import SeqTexModel
from .prepare import PreparedJob
from .projection_frame import from_residual
from .stages import StageClock


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Everything that changes what the model makes, resolved.

    Args:
        task: registered task.
        steps: model calls per texture.
        seed: of all noise.
        view_size: pixels of a view, square.
        uv_size: texels of a texture, square.
        sampler: registered sampler.
        shift: flow shift of the noise levels.
        prompt: text, or ``None``.
        guidance: classifier-free guidance scale; 1 is none.
        foreground: compute the tokens that touch the surface and this many around them; ``None``
            for all tokens.
        step_reuse: an approximation: a step whose input changed by less than this share repeats
            what the last computed one did; ``None`` computes every step.
        cuda_graph: replay each step as one CUDA graph.
    """

    task: str
    steps: int
    seed: int
    view_size: int
    uv_size: int
    sampler: str
    shift: float
    prompt: str | None = None
    guidance: float = 1.0
    foreground: int | None = None
    step_reuse: float | None = None
    cuda_graph: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """What the model made.

    Args:
        textures: per texture set ``[3, H, W]`` in [0, 1], seams padded.
        views: ``[F, 3, h, w]`` in [0, 1], black around the object; references as given.
        view_maps: geometry maps of the views.
        uv_maps: geometry maps per texture set.
        frames: projection frame per texture set, ``[3, H, W]``, ``None`` for tasks without one.
        shown: per texture set, whether its frame shows any of a reference; True without a frame.
        shares: by group, share of the tokens that were computed; ``None`` for all of them.
        calls: of the model, that were computed and that repeated an earlier one; ``None`` without
            step reuse.
    """

    textures: tuple[Tensor, ...]
    views: Tensor
    view_maps: SurfaceMaps
    uv_maps: tuple[SurfaceMaps, ...]
    frames: tuple[Tensor | None, ...]
    shown: tuple[bool, ...]
    shares: Mapping[str, float] | None = None
    calls: tuple[int, int] | None = None


def make_plan(
    task: str, job: PreparedJob, *, sampling: SamplingDefaults | None = None
) -> FramePlan:
    """The frame plan of a task for the views that a job has references for.

    Raises:
        UsageError: unknown task, or references that it cannot use.
    """
    num_views = len(job.cameras)
    given = tuple(reference.view_index for reference in job.references)
    factory = TASKS.get(task)
    if task in REFERENCE_TASKS:
        plan = factory(num_views=num_views, condition_views=given)
    else:
        if task == "mv2tex" and len(given) != num_views:
            missing = [n for i, n in enumerate(job.cameras.names) if i not in given]
            raise UsageError(
                "references",
                expected=f"one for each view for the task {task}",
                got=f"none for {', '.join(missing)}",
                remedy="Give them with --ref VIEW=PATH, or use the task img2tex.",
            )
        plan = factory(num_views=num_views)
    if plan.unread_conditions():
        raise UsageError(
            "task",
            expected="one whose conditions the denoised frames can read",
            got=f"{task}: views never read the texture in a model with two branches",
        )
    return (sampling or SamplingDefaults()).applied_to(plan)


def generate(
    model: SeqTexModel, job: PreparedJob, settings: GenerateSettings, clock: StageClock
) -> Generated:
    """Views and one texture per texture set.

    The views never read the texture, so every texture set sees the same views.

    Args:
        model: the model.
        job: the prepared mesh and references, on the model's device.
        settings: resolved settings.
        clock: told about stages and progress.

    Raises:
        UsageError: references that the task cannot use, or sizes that the model cannot take.
    """
    plan = make_plan(settings.task, job, sampling=model.config.sampling)
    model.check_task(settings.task)
    with clock.stage("Maps"):
        view_maps = job.view_maps(settings.view_size, supersample=model.config.supersample)
        uv_maps = _uv_maps(model, plan, job, settings.uv_size)
    text = _encode_text(model, settings, clock)
    with clock.stage("Encode"), torch.no_grad(), model.residence.using("codec"):
        runs = encode_conditions(model, plan, job, view_maps, uv_maps, seed=settings.seed)
    latents, calls = _denoised(model, plan, runs, settings, text, clock)
    with clock.stage("Decode"), torch.no_grad(), model.residence.using("codec"):
        shown = [run.foreground(model, settings.foreground) for run in runs]
        cleared = [
            x if tokens is None else tokens.cleared(x, plan, model.codec)
            for tokens, x in zip(shown, latents, strict=True)
        ]
        pictures = decode_images(cleared[0][VIEWS], model.codec)
        textures = [
            run.as_shown(decode_images(x[TEXTURE], model.codec)[0], model)
            for run, x in zip(runs, cleared, strict=True)
            if uv_maps
        ]
    frames = [run.frame for run in runs[: len(uv_maps)]]
    return Generated(
        textures=_finished(model, runs, textures, clock),
        views=pictures,
        view_maps=view_maps,
        uv_maps=uv_maps,
        frames=tuple(None if frame is None else frame.image for frame in frames),
        shown=tuple(frame is None or bool(frame.seen.any()) for frame in frames),
        shares=_shares(shown),
        calls=calls,
    )


def _uv_maps(
    model: SeqTexModel, plan: FramePlan, job: PreparedJob, size: int
) -> tuple[SurfaceMaps, ...]:
    """Of every texture set; none for a task that makes views only."""
    streams = model.transformer.config.streams(DEFAULT_STREAMS)
    if TEXTURE not in plan.required_groups(streams):
        return ()
    return tuple(job.uv_maps(size, texture_set=index) for index in range(job.num_texture_sets))


def _denoised(
    model: SeqTexModel,
    plan: FramePlan,
    runs: Sequence[Conditions],
    settings: GenerateSettings,
    text: Sequence[Tensor | None],
    clock: StageClock,
) -> tuple[list[Mapping[str, Tensor]], tuple[int, int] | None]:
    """Clean latents by group of every run, and the calls that were computed and repeated."""
    made: list[Mapping[str, Tensor]] = []
    denoise = clock.stage("Denoise", len(runs) * settings.steps)
    repeating = repeating_steps(model.transformer, settings.step_reuse)
    with denoise as step, model.residence.using("transformer"), repeating as reuse:
        for number, conditions in enumerate(runs):

            def on_step(done: int, before: int = number * settings.steps) -> None:
                step(before + done)

            latents = _sample(model, plan, conditions, settings, text, on_step)
            projection = conditions.clean.get(PROJECTION)
            made.append(from_residual(latents, projection, model.config.texture_base))
    return made, None if reuse is None else (reuse.computed, reuse.reused)


def _finished(
    model: SeqTexModel, runs: Sequence[Conditions], textures: Sequence[Tensor], clock: StageClock
) -> tuple[Tensor, ...]:
    """Decoded textures, unseen texels weighed by the model's fusion if it has one, seams padded."""
    made = list(textures)
    if model.fusion is not None and made:
        with clock.stage("Weigh unseen", len(made)) as step:
            for index, run in enumerate(runs):
                made[index] = run.weighed(made[index], model.fusion)
                step(index + 1)
    with clock.stage("Pad seams"):
        return tuple(
            pad_seams(texture, run.maps[TEXTURE].hit[0])
            for texture, run in zip(made, runs[: len(made)], strict=True)
        )


def _shares(shown: Sequence[Foreground | None]) -> dict[str, float] | None:
    """Share of the tokens that were computed: of the views, and over all textures."""
    found = [one for one in shown if one is not None]
    if not found:
        return None
    names = [name for name in found[0].tokens if name != PROJECTION]
    return {name: sum(one.share(name) for one in found) / len(found) for name in names}


def _sample(
    model: SeqTexModel,
    plan: FramePlan,
    conditions: Conditions,
    settings: GenerateSettings,
    text: Sequence[Tensor | None],
    on_step: Callable[[int], None],
) -> Mapping[str, Tensor]:
    """Clean latents of every group that the plan needs."""

    def report(state: StepReport) -> None:
        on_step(state.index + 1)

    geometry = conditions.geometry
    known = KnownLatents(
        shapes={name: tuple(maps.position.shape) for name, maps in geometry.items()},
        clean=conditions.clean,
        device=conditions.clean[VIEWS].device,
    )
    with torch.no_grad():
        return sample(
            _velocity_model(model, conditions, settings, text),
            plan,
            known,
            sigmas=inference_sigmas(settings.steps, shift=settings.shift),
            generator=torch.Generator().manual_seed(settings.seed),
            sampler=SAMPLERS.get(settings.sampler),
            callback=report,
            streams=model.transformer.config.streams(DEFAULT_STREAMS),
        )


def _encode_text(
    model: SeqTexModel, settings: GenerateSettings, clock: StageClock
) -> list[Tensor | None]:
    """Text rows of the prompt and, with guidance, of the empty prompt."""
    prompts = [settings.prompt] if settings.guidance == 1.0 else [settings.prompt, ""]
    if model.text_encoder is None:
        return model.encode_prompts(prompts)
    with clock.stage("Text"):
        return model.encode_prompts(prompts)


def _velocity_model(
    model: SeqTexModel,
    conditions: Conditions,
    settings: GenerateSettings,
    text: Sequence[Tensor | None],
) -> PredictVelocity:
    transformer, geometry, guidance = model.transformer, conditions.geometry, settings.guidance
    sizes = {name: _size(maps.position) for name, maps in geometry.items()}
    streams = transformer.config.streams(DEFAULT_STREAMS)
    dense = transformer.layout(sizes, {name: streams[name] for name in sizes})
    shown = conditions.foreground(model, settings.foreground)
    layout = dense if shown is None else shown.layout(dense)
    models = []
    for rows in text:
        cache = transformer.prepare(
            layout,
            geometry=geometry,
            text=rows,
            clean=conditions.clean,
            precompute=model.caches_geometry,
        )
        models.append(calling(transformer, cache, cuda_graph=settings.cuda_graph))
    return models[0] if guidance == 1.0 else with_guidance(models[0], models[1], guidance)


def _size(latents: Tensor) -> tuple[int, int, int]:
    _, _, frames, height, width = latents.shape
    return frames, height, width
