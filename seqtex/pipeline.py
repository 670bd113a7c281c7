"""The pipeline as one callable: a mesh and reference images in, a textured result out."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Self

import torch

from seqtex_core.errors import UsageError
from seqtex_core.tasks import REFERENCE_TASKS
from seqtex_geometry.mesh import VIEW_NAMES

from .library_words import library_words
from .models.folder import DEFAULT_MODEL
from .models.load import DTYPES, SeqTexModel, load_model
from .models.run_sizes import RunSizes
from .models.sources import ModelSources
from .prepare import PreparedJob, choose_device, prepare_job
from .prepare_options import PrepareOptions
from .references import ReferenceSource
from .result import TextureResult
from .run_options import RunOptions
from .stages import OnProgress
from .texturing import check_run, texture_job


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
        seed: int = 0,
        prompt: str | None = None,
        options: RunOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> TextureResult:
        """Texture a mesh.

        Args:
            mesh: a mesh file, or a job already prepared (with its references) on any device.
            references: per view name a picture of the object in that view: a path, a PIL image, an
                array ``[H, W, 3]`` of uint8, or a tensor ``[3, H, W]`` in [0, 1]. One picture alone
                shows the front. Not with a job.
            task: registered task: what is given and what is made; the model's own if ``None``.
            seed: the same seed gives the same texture on the same kind of device.
            prompt: text, for models that read it.
            options: sizes, steps and the rest; defaults to ``RunOptions()``.
            on_progress: told about stages: name, steps done, steps in all.

        Raises:
            UsageError: options or references that the task or the model cannot use.
            UnsupportedError: a CUDA graph without CUDA, or with blocks that come and go.
            InputError: the mesh or an image is rejected.
            OutOfMemoryError: the device is too small for these sizes.
        """
        seed = _checked_seed(seed)
        options = options or RunOptions()
        with library_words():
            check_run(self.model, options, task=task, prompt=prompt)
            job = self._job(mesh, references, task=task, on_progress=on_progress)
            return texture_job(
                self.model,
                job,
                task=task,
                seed=seed,
                prompt=prompt,
                options=options,
                on_progress=on_progress,
            )

    def _job(
        self,
        mesh: PreparedJob | str | Path,
        references: Mapping[str, ReferenceSource] | ReferenceSource | None,
        *,
        task: str | None,
        on_progress: OnProgress | None,
    ) -> PreparedJob:
        """The job that is given, or one prepared of what is given."""
        if isinstance(mesh, PreparedJob):
            if references is not None:
                raise UsageError("references", expected="none beside a job", got="some")
            return mesh
        given = _by_view(references)
        if not given and (task or self.model.config.task) in REFERENCE_TASKS:
            raise UsageError(
                "references",
                expected="at least one picture, such as {'front': 'chair.png'}",
                got="none",
            )
        options = PrepareOptions(device=str(self.model.device))
        return prepare_job(mesh, given, options=options, on_progress=on_progress)


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


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise UsageError("dtype", expected=f"one of {', '.join(DTYPES)}", got=repr(name))
    return DTYPES[name]
