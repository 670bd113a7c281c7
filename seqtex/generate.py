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
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.guidance import with_guidance
from seqtex_core.sampling import PredictVelocity, StepReport, sample
from seqtex_core.tasks import PROJECTION, REFERENCE_TASKS, TASKS, TEXTURE, VIEWS
from seqtex_geometry.maps import SurfaceMaps
from seqtex_geometry.seams import pad_seams

from .foreground import Foreground, latent_coverage, pooled_coverage
from .fusion import Fusion, fused
from .latents import decode_images, encode_geometry, encode_references
from .models.approximations import repeating_steps
from .models.config import SamplingDefaults
from .models.graphs import calling
from .models.load import SeqTexModel
from .prepare import PreparedJob
from .projection_frame import ProjectionFrame, from_residual, kept_as_shown, project_frame
from .shared_run import made_alike
from .stages import StageClock

# Keeps the noise of drawn latents apart from that of sampling. torch's CPU generator reads the low
# 32 bits of a seed only.
_ENCODING = 0x2A5F11D7


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
    noise = torch.Generator().manual_seed(settings.seed ^ _ENCODING)
    streams = model.transformer.config.streams(DEFAULT_STREAMS)
    sets = range(job.num_texture_sets) if TEXTURE in plan.required_groups(streams) else ()
    with clock.stage("Maps"):
        view_maps = job.view_maps(settings.view_size, supersample=model.config.supersample)
        uv_maps = tuple(job.uv_maps(settings.uv_size, texture_set=index) for index in sets)
    text = _encode_text(model, settings, clock)
    with clock.stage("Encode"), torch.no_grad(), model.residence.using("codec"):
        views = encode_geometry(view_maps, model.codec, generator=noise)
        clean = encode_references(
            job.references,
            model.codec,
            num_views=len(job.cameras),
            size=settings.view_size,
            generator=noise,
        )
        runs = [_Conditions(geometry={VIEWS: views}, clean={VIEWS: clean}, maps={VIEWS: view_maps})]
        if uv_maps:
            runs = [_texture_conditions(runs[0], plan, job, maps, model, noise) for maps in uv_maps]
        made_alike(
            model,
            (maps.face_idx for run in runs for maps in run.maps.values()),
            (values for run in runs for values in run.tensors()),
        )
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
    with clock.stage("Decode"), torch.no_grad(), model.residence.using("codec"):
        shown = [run.foreground(model, settings.foreground) for run in runs]
        made = [
            f.cleared(x, plan, model.codec) if f else x for f, x in zip(shown, made, strict=True)
        ]
        pictures = decode_images(made[0][VIEWS], model.codec)
        textures = [
            run.as_shown(decode_images(latents[TEXTURE], model.codec)[0], model)
            for run, latents in zip(runs, made, strict=True)
            if uv_maps
        ]
    if model.fusion is not None and textures:
        with clock.stage("Weigh unseen", len(textures)) as step:
            for index, run in enumerate(runs):
                textures[index] = run.weighed(textures[index], model.fusion)
                step(index + 1)
    with clock.stage("Pad seams"):
        padded = tuple(
            pad_seams(texture, maps.hit[0]) for texture, maps in zip(textures, uv_maps, strict=True)
        )
    return Generated(
        textures=padded,
        views=pictures,
        view_maps=view_maps,
        uv_maps=uv_maps,
        frames=tuple(
            None if run.frame is None else run.frame.image for run in runs[: len(uv_maps)]
        ),
        shown=tuple(
            run.frame is None or bool(run.frame.seen.any()) for run in runs[: len(uv_maps)]
        ),
        shares=_shares(shown),
        calls=None if reuse is None else (reuse.computed, reuse.reused),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Conditions:
    """Maps and their latents of every group that is computed, clean latents of known ones."""

    geometry: Mapping[str, GeometryLatents]
    clean: Mapping[str, Tensor]
    maps: Mapping[str, SurfaceMaps]
    frame: ProjectionFrame | None = None

    def tensors(self) -> list[Tensor]:
        """All latents, points of the surface, and which of them references show."""
        maps = self.geometry.values()
        latents = (*(m.position for m in maps), *(m.normal for m in maps), *self.clean.values())
        points = (m.points for m in maps if m.points is not None)
        seen = () if self.frame is None else (self.frame.seen,)
        return [*latents, *points, *seen]

    def as_shown(self, texture: Tensor, model: SeqTexModel) -> Tensor:
        """A decoded texture, with what the references show as they show it."""
        if self.frame is None:
            return texture
        base = model.config.texture_base
        return kept_as_shown(texture, self.frame.image, self.frame.seen, base)

    def weighed(self, texture: Tensor, fusion: Fusion) -> Tensor:
        """A texture whose unseen texels the fusion had the last word on."""
        if self.frame is None:
            return texture
        maps = self.maps[TEXTURE]
        return fused(
            fusion,
            texture,
            self.frame.image,
            seen=self.frame.seen,
            position=maps.position[0].permute(2, 0, 1),
            normal=maps.normal[0].permute(2, 0, 1),
            mask=maps.hit[0],
        )

    def foreground(self, model: SeqTexModel, margin: int | None) -> Foreground | None:
        """The tokens to compute; ``None`` for all."""
        if margin is None:
            return None
        coverage = {name: latent_coverage(maps, model.codec) for name, maps in self.maps.items()}
        if self.frame is not None and model.config.decoupled.copy is not None:
            seen, there = self.frame.seen, self.maps[TEXTURE].hit[0]
            coverage[PROJECTION] = pooled_coverage(seen & there, model.codec)
            coverage[TEXTURE] = pooled_coverage(there & ~seen, model.codec)
        return Foreground.of(coverage, patch=model.transformer.spec.patch_size, margin=margin)


def _texture_conditions(
    views: _Conditions,
    plan: FramePlan,
    job: PreparedJob,
    maps: SurfaceMaps,
    model: SeqTexModel,
    noise: torch.Generator,
) -> _Conditions:
    """The views' conditions and those of one texture set."""
    geometry = dict(views.geometry)
    clean = dict(views.clean)
    shown = {**views.maps, TEXTURE: maps}
    frame = None
    if PROJECTION in plan.groups:
        frame = project_frame(job, maps)
        geometry[PROJECTION] = encode_geometry(frame.maps, model.codec, generator=noise)
        clean[PROJECTION] = model.codec.encode(frame.image[None], generator=noise)
        shown[PROJECTION] = maps
    geometry[TEXTURE] = encode_geometry(maps, model.codec, generator=noise)
    return _Conditions(geometry=geometry, clean=clean, maps=shown, frame=frame)


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
    conditions: _Conditions,
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
    conditions: _Conditions,
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
