"""The pipeline as one callable: a mesh and reference images in, a textured result out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from operator import index
from pathlib import Path
from typing import Self

import torch

from seqtex_core.errors import UsageError
from seqtex_core.tasks import REFERENCE_TASKS
from seqtex_geometry.mesh import VIEW_NAMES

from .detail import with_detail
from .foreground import told
from .fusion import CANDIDATES
from .generate import GenerateSettings, generate
from .library_words import library_words
from .models import approximations
from .models.catalog import CATALOG
from .models.config import ModelConfig
from .models.folder import DEFAULT_MODEL
from .models.graphs import check_graph
from .models.load import DTYPES, SeqTexModel, load_model
from .models.run_sizes import RunSizes, check_enlarges
from .models.sources import ModelSources
from .out_of_memory import naming_smaller_setting
from .prepare import PreparedJob, choose_device, prepare_job
from .prepare_options import PrepareOptions
from .references import ReferenceSource
from .result import ResultMaps, TextureResult
from .stages import OnProgress, StageClock
from .unseen_sets import fill_unseen_sets


class SeqTexPipeline:
    """Textures meshes with a model.

    Args:
        model: a loaded model.

    Example:
        >>> pipeline = SeqTexPipeline.from_pretrained("seqtex-tiny")
        >>> result = pipeline("chair.glb", {"front": "chair.png"}, seed=1)
        >>> result.save("chair_textured.glb")
    """

    def __init__(self, model: SeqTexModel) -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        *,
        weights: ModelSources | str | Path | None = None,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str | None = None,
        memory: int | None = None,
        sizes: RunSizes | None = None,
        on_progress: OnProgress | None = None,
        fp8: bool = False,
    ) -> Self:
        """A pipeline around a model by name, or one in a local folder.

        Args:
            name_or_path: built-in name, a full-size model's name, or a folder with a model config
                and weights.
            weights: of a full-size model: a diffusers pipeline's folder, a file, a hub id, or
                :class:`ModelSources`, which names the parts one by one.
            device: a torch device; ``"auto"`` takes CUDA if there is one, else the CPU.
            dtype: of the transformer's weights; a torch dtype or its name ("bfloat16"). The
                model's own if ``None``.
            memory: GiB to keep within: 8, 12, 16 or 24; what is free if ``None``.
            sizes: of the runs to keep within it; the model's own if ``None``.
            on_progress: told about downloads. Optional.
            fp8: an approximation: products of the transformer in 8-bit floating point.

        Raises:
            WeightsError: nothing there, or weights that do not fit.
            UsageError: settings that do not suit the model.
            UnsupportedError: ``fp8`` on a device that cannot.
            OutOfMemoryError: runs of these sizes cannot be kept within ``memory``.
        """
        kind = _dtype(dtype) if isinstance(dtype, str) else dtype
        if isinstance(weights, str | Path):
            weights = ModelSources(weights=str(weights))
        with library_words():
            model = load_model(
                name_or_path,
                device=choose_device(str(device)),
                dtype=kind,
                sources=weights,
                memory=memory,
                sizes=sizes,
                on_progress=on_progress,
                fp8=fp8,
            )
        return cls(model)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the model; returns the pipeline."""
        self.model = self.model.moved(torch.device(device), dtype)
        return self

    def __call__(
        self,
        mesh: PreparedJob | str | Path,
        references: Mapping[str, ReferenceSource] | ReferenceSource | None = None,
        *,
        task: str | None = None,
        steps: int | None = None,
        shift: float | None = None,
        seed: int = 0,
        view_size: int | None = None,
        uv_size: int | None = None,
        texture_size: int | None = None,
        prompt: str | None = None,
        guidance: float = 1.0,
        foreground: bool | None = None,
        step_reuse: float | None = None,
        cuda_graph: bool = False,
        on_progress: OnProgress | None = None,
    ) -> TextureResult:
        """Texture a mesh.

        Args:
            mesh: a mesh file, or a job already prepared (with its references) on any device.
            references: per view name a picture of the object in that view: a path, a PIL image, an
                array ``[H, W, 3]`` of uint8, or a tensor ``[3, H, W]`` in [0, 1]. One picture alone
                shows the front. Not with a job.
            task: registered task: what is given and what is made; the model's own if ``None``.
            steps: model calls per texture; the model's default if ``None``.
            shift: flow shift of the noise levels; the model's default if ``None``.
            seed: the same seed gives the same texture on the same kind of device.
            view_size: pixels of a view; the model's own size if ``None``.
            uv_size: texels of the texture that the model makes; its own size if ``None``.
            texture_size: texels of the result. Where it is not ``uv_size``, the model's texture is
                enlarged, and what the references show is taken from them. If ``None``: the model's
                own choice if there are references and no ``uv_size``, else ``uv_size``.
            prompt: text, for models that read it.
            guidance: classifier-free guidance scale; 1 is none.
            foreground: compute only the tokens that touch the surface (True) or all of them
                (False); as the model was trained if ``None``. Less work, but another result if it
                is not as the model was trained.
            step_reuse: an approximation: a step whose input changed by less than this share since
                the last computed one repeats what the transformer did then. 0.1, say.
            cuda_graph: replay each step as one CUDA graph: less time for small steps, whose kernels
                are over before the host has launched the next; more memory. Without step reuse.
            on_progress: told about stages: name, steps done, steps in all.

        Raises:
            UsageError: settings or references that the task or the model cannot use.
            UnsupportedError: ``cuda_graph`` without CUDA, or with blocks that come and go.
            InputError: the mesh or an image is rejected.
            OutOfMemoryError: the device is too small for these sizes.
        """
        seed = _checked_seed(seed)
        job = mesh if isinstance(mesh, PreparedJob) else None
        if job is not None and references is not None:
            raise UsageError("references", expected="none beside a job", got="some")
        # the command line prepares its jobs itself: what it is told is in its own words
        with library_words() if job is None else nullcontext():
            self.model.check_prompt(prompt)
            if cuda_graph:
                check_graph(self.model.device, step_reuse=step_reuse)
            self.model.check_sizes(view_size=view_size, uv_size=uv_size)
            check_enlarges("texture_size", texture_size, uv_size or self.model.config.uv_size)
        if not isinstance(mesh, PreparedJob):
            given = _by_view(references)
            if not given and (task or self.model.config.task) in REFERENCE_TASKS:
                raise UsageError(
                    "references",
                    expected="at least one picture, such as {'front': 'chair.png'}",
                    got="none",
                )
            options = PrepareOptions(device=str(self.model.device))
            job = prepare_job(mesh, given, options=options, on_progress=on_progress)
        assert job is not None
        config = self.model.config
        settings = GenerateSettings(
            task=config.task if task is None else task,
            steps=config.sampling.steps if steps is None else steps,
            seed=seed,
            view_size=config.view_size if view_size is None else view_size,
            uv_size=config.uv_size if uv_size is None else uv_size,
            sampler=config.sampling.sampler,
            shift=config.sampling.shift if shift is None else shift,
            prompt=prompt,
            guidance=guidance,
            foreground=_margin(model_margin=config.foreground, asked=foreground),
            step_reuse=step_reuse,
            cuda_graph=cuda_graph,
        )
        if step_reuse is not None and settings.steps < 2:
            raise UsageError(
                "step reuse",
                expected="several steps, of which one can repeat another",
                got=str(settings.steps),
                remedy="Leave --step-reuse out, or take more --steps.",
            )
        clock = StageClock(on_progress)
        model = self.model
        with naming_smaller_setting(lambda: _smaller(model, settings)):
            made = generate(model, job, settings, clock)
            textures, uv_maps = made.textures, made.uv_maps
            size = _texture_size(model, job, uv_size=uv_size, texture_size=texture_size)
            if size != settings.uv_size and textures:
                textures, uv_maps = with_detail(job, made, size, clock)
            else:
                textures = fill_unseen_sets(textures, uv_maps, made.shown)
        record = {k: v for k, v in asdict(settings).items() if k not in ("task", "seed")}
        return TextureResult.of(
            job,
            textures,
            method="model",
            settings={
                **record,
                "texture_size": size,
                "dtype": str(model.dtype),
                "memory": _memory(model),
                "fp8": bool(model.fp8_layers),
            },
            choices={
                **model_choices(model, prompt),
                **_tokens(config, made.shares),
                **approximations.told(
                    fp8_layers=model.fp8_layers, threshold=step_reuse, calls=made.calls
                ),
            },
            stage_seconds=clock.times,
            views=made.views,
            maps=ResultMaps(views=made.view_maps, textures=uv_maps),
        ).with_model(model.record, task=settings.task, seed=seed)


def _by_view(
    references: Mapping[str, ReferenceSource] | ReferenceSource | None,
) -> Mapping[str, ReferenceSource]:
    """Pictures by view; one alone shows the front."""
    if references is None:
        return {}
    return references if isinstance(references, Mapping) else {VIEW_NAMES[0]: references}


def _checked_seed(seed: int) -> int:
    """The seed as a whole number that torch takes."""
    try:
        number = index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise UsageError("seed", expected="a whole number from 0 to 2^63 - 1", got=repr(seed))
    return number


def model_choices(model: SeqTexModel, prompt: str | None) -> dict[str, str]:
    """What is said of a model before and after a run: its weights, its text, its memory."""
    told = {"model": f"{model.config.name} ({model.state})"}
    if model.config.text_encoder is not None or model.record.name in CATALOG:
        told["text"] = model.text_state(prompt)
    if model.record.name not in CATALOG and model.is_trained:
        told["about"] = model.config.summary
    if model.fusion is not None:
        told["unseen"] = f"weighed among {len(CANDIDATES)} ways to continue what is shown"
    if model.memory is not None:
        told["memory"] = str(model.memory)
    return told


def _texture_size(
    model: SeqTexModel, job: PreparedJob, *, uv_size: int | None, texture_size: int | None
) -> int:
    """Edge of the result."""
    config = model.config
    if texture_size is not None:
        return texture_size
    if uv_size is None and config.texture_size is not None and job.references:
        return config.texture_size
    return uv_size or config.uv_size


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


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise UsageError("dtype", expected=f"one of {', '.join(DTYPES)}", got=repr(name))
    return DTYPES[name]
