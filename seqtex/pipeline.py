"""The pipeline as one callable: a mesh and reference images in, a textured result out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch

from seqtex_core.errors import UsageError

from .generate import GenerateSettings, generate
from .models.load import SeqTexModel, load_model
from .prepare import PreparedJob, choose_device, prepare_job
from .prepare_options import PrepareOptions
from .references import ReferenceSource
from .result import ResultMaps, TextureResult
from .stages import OnProgress, StageClock

DEFAULT_MODEL = "seqtex-tiny"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = torch.float32,
    ) -> Self:
        """A pipeline around a built-in model or one in a local folder.

        Args:
            name_or_path: built-in name, or a folder with a model config and weights.
            device: a torch device; ``"auto"`` takes CUDA if there is one, else the CPU.
            dtype: of the transformer's weights; a torch dtype or its name ("bfloat16").

        Raises:
            WeightsError: nothing there, or weights that do not fit.
        """
        kind = dtype if isinstance(dtype, torch.dtype) else _dtype(dtype)
        return cls(load_model(name_or_path, device=choose_device(str(device)), dtype=kind))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the model; returns the pipeline."""
        self.model.transformer.to(device=device, dtype=dtype)
        return self

    def __call__(
        self,
        mesh: PreparedJob | str | Path,
        references: Mapping[str, ReferenceSource] | None = None,
        *,
        task: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        view_size: int | None = None,
        uv_size: int | None = None,
        prompt: str | None = None,
        guidance: float = 1.0,
        on_progress: OnProgress | None = None,
    ) -> TextureResult:
        """Texture a mesh.

        Args:
            mesh: a mesh file, or a job already prepared (with its references) on any device.
            references: per view name a picture of the object in that view. Not with a job.
            task: registered task: what is given and what is made; the model's own if ``None``.
            steps: model calls per texture; the model's default if ``None``.
            seed: the same seed gives the same texture on the same kind of device.
            view_size: pixels of a view; the model's own size if ``None``.
            uv_size: texels of the texture; the model's own size if ``None``.
            prompt: text, for models that read it.
            guidance: classifier-free guidance scale; 1 is none.
            on_progress: told about stages: name, steps done, steps in all.

        Raises:
            UsageError: settings or references that the task or the model cannot use.
            InputError: the mesh or an image is rejected.
            OutOfMemoryError: the device is too small for these sizes.
        """
        self.model.check_prompt(prompt)
        self.model.check_sizes(view_size=view_size, uv_size=uv_size)
        if isinstance(mesh, PreparedJob):
            if references is not None:
                raise UsageError("references", expected="none beside a job", got=str(references))
            job = mesh
        else:
            options = PrepareOptions(device=str(self.model.device))
            job = prepare_job(mesh, references or {}, options=options, on_progress=on_progress)
        config = self.model.config
        settings = GenerateSettings(
            task=config.task if task is None else task,
            steps=config.sampling.steps if steps is None else steps,
            seed=seed,
            view_size=config.view_size if view_size is None else view_size,
            uv_size=config.uv_size if uv_size is None else uv_size,
            sampler=config.sampling.sampler,
            shift=config.sampling.shift,
            prompt=prompt,
            guidance=guidance,
        )
        clock = StageClock(on_progress)
        made = generate(self.model, job, settings, clock)
        model = self.model
        record = {k: v for k, v in asdict(settings).items() if k not in ("task", "seed")}
        return TextureResult.of(
            job,
            made.textures,
            method="model",
            settings={**record, "dtype": str(model.dtype)},
            choices={"model": f"{config.name} ({model.state})"},
            stage_seconds=clock.times,
            views=made.views,
            maps=ResultMaps(views=made.view_maps, textures=made.uv_maps),
        ).with_model(model.record, task=settings.task, seed=seed)


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise UsageError("dtype", expected=f"one of {', '.join(DTYPES)}", got=repr(name))
    return DTYPES[name]
