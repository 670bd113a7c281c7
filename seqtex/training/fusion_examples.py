"""Texels to fit a fusion on: what the candidates say of them, and the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.roles import Role
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS
from seqtex_geometry.continuation import continue_colors

from ..data.worker_processes import results_in_processes
from ..fusion import with_model
from ..models.load import SeqTexModel, load_model
from .batch import SOURCES, BatchSource, SourceContext
from .batch_sampling import sample_batch
from .projection import with_projection
from .randomness import generator_for
from .task_mix import TaskMix

_FEWEST = 50  # texels that must be seen, and hidden, for an object to say anything
_PER_JOB = 20
_TIMEOUT_S = 900.0
_Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class FusionExample:
    """Some hidden texels of one object.

    Args:
        features: ``[T, E + K]``, see :func:`seqtex.fusion.with_model`.
        colors: of the candidates, ``[T, K, 3]``.
        truth: ``[T, 3]``.
    """

    features: Tensor
    colors: Tensor
    truth: Tensor


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """Which examples.

    Args:
        model: folder or name of the model whose textures are weighed.
        data: folder of a bank or of shards.
        source: registered data source that reads it.
        texels: of each object.
        views_given: weights of 1, 2, ... given views.
        seed: of everything that is drawn.
    """

    model: str
    data: Path
    source: str
    texels: int = 256
    views_given: tuple[float, ...] = (0.8, 0.2)
    seed: int = 0


def fusion_examples(
    settings: ExampleSettings, count: int, *, workers: int = 1
) -> Iterator[FusionExample]:
    """Examples of ``count`` samples; those that show or hide next to nothing are left out.

    They come in the order of the samples, whatever the number of processes.

    Args:
        settings: which.
        count: samples of the source, from number 0.
        workers: processes; one works in this process.

    Raises:
        SeqTexError: settings or data that cannot be used.
        ContractError: a process ended before its work did.
    """
    jobs = [range(k, min(k + _PER_JOB, count)) for k in range(0, count, _PER_JOB)]
    if workers == 1:
        for job in jobs:
            yield from _examples(settings, job)
        return
    results = results_in_processes(
        jobs,
        partial(_arrays_of_examples, settings),
        workers=workers,
        timeout_s=_TIMEOUT_S,
        name=lambda job: f"samples {job.start} to {job.stop - 1}",
    )
    early: dict[int, list[_Arrays]] = {}
    following = 0
    for done, arrays in results:
        early[done.start] = arrays
        while following in early:  # the order of the samples, whichever job ended first
            yield from (_example_of(one) for one in early.pop(following))
            following += _PER_JOB


def _arrays_of_examples(settings: ExampleSettings, numbers: range) -> list[_Arrays]:
    """For a process of its own. Tensors that are sent would each keep a file open."""
    torch.set_num_threads(1)
    made = _examples(settings, numbers)
    return [(one.features.numpy(), one.colors.numpy(), one.truth.numpy()) for one in made]


def _example_of(arrays: _Arrays) -> FusionExample:
    features, colors, truth = (torch.from_numpy(array) for array in arrays)
    return FusionExample(features=features, colors=colors, truth=truth)


def _examples(settings: ExampleSettings, numbers: range) -> list[FusionExample]:
    model, source = _opened(settings)
    made = [_example(settings, model, source, number) for number in numbers]
    return [example for example in made if example is not None]


@lru_cache(maxsize=1)
def _opened(settings: ExampleSettings) -> tuple[SeqTexModel, BatchSource]:
    model = load_model(settings.model)
    config = model.config
    context = SourceContext(
        seed=settings.seed,
        view_size=config.view_size,
        uv_size=config.uv_size,
        supersample=config.supersample,
    )
    return model, SOURCES.get(settings.source)({"path": str(settings.data.resolve())}, context)


def _example(
    settings: ExampleSettings, model: SeqTexModel, source: BatchSource, number: int
) -> FusionExample | None:
    task = model.config.task
    batch = source.batch([number], task)
    views = batch.groups[VIEWS].images.shape[1]
    mix = TaskMix(weights={task: 1.0}, num_views=views, views_given=settings.views_given)
    plan = mix.plan(task, number, seed=settings.seed)
    if PROJECTION not in plan.groups:
        raise UsageError(
            f"task of model {model.config.name!r}",
            expected="one with a projection frame, such as img2tex_projected",
            got=task,
            remedy="A fusion weighs what continues that frame.",
        )
    given = plan.frames_with(VIEWS, Role.CONDITION)
    batch = with_projection(batch, [plan], model.config.texture_base)
    texture = batch.groups[TEXTURE]
    mask = texture.mask[0, 0, 0] > 0
    assert batch.visible is not None  # the projection was made from it
    known = batch.visible[0, list(given)].any(dim=0)[mask]
    if min(int(known.sum()), int((~known).sum())) < _FEWEST:
        return None
    hidden = (~known).nonzero()[:, 0]
    order = torch.randperm(len(hidden), generator=generator_for(settings.seed, "texels", number))
    chosen = torch.zeros_like(known)
    chosen[hidden[order[: settings.texels]]] = True

    def rows(image: Tensor) -> Tensor:
        return image[:, mask].T

    made = sample_batch(
        model,
        batch,
        [number],
        steps=model.config.sampling.steps,
        seed=settings.seed,
        given_views=given,
        fuse=False,
    )
    ways = continue_colors(
        rows(texture.position[0, 0]),
        rows(texture.normal[0, 0]),
        rows(batch.groups[PROJECTION].images[0, 0]),
        known,
        wanted=chosen,
    )
    model_colors = rows(made[TEXTURE][0, 0].clamp(0, 1))[chosen]
    features, colors = with_model(ways, model_colors)
    return FusionExample(features=features, colors=colors, truth=rows(texture.images[0, 0])[chosen])
