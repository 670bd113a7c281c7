"""A model run on a batch of objects whose truth is known: previews and measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from seqtex_backbones.unipc import SAMPLERS
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_plan import DEFAULT_STREAMS, FramePlan
from seqtex_core.frame_run import KnownLatents
from seqtex_core.roles import Role
from seqtex_core.sampling import sample
from seqtex_core.tasks import PROJECTION, REFERENCE_TASKS, TASKS, TEXTURE, VIEWS

from ..fusion import fused
from ..models.load import SeqTexModel
from ..projection_frame import from_residual, kept_as_shown
from .batch import TrainingBatch
from .encode import BatchEncoder
from .projection import with_projection
from .randomness import generators_for


@torch.no_grad()
def sample_batch(
    model: SeqTexModel,
    batch: TrainingBatch,
    indices: Sequence[int],
    *,
    steps: int,
    seed: int,
    given_views: Sequence[int] = (0,),
    fuse: bool = True,
) -> dict[str, Tensor]:
    """Sample the model's own task for every object of a batch, from the same given views.

    Args:
        model: as users load it.
        batch: with views and textures; only what the task is given of them is used.
        indices: one number per object; the noise of an object depends on it and the seed alone.
        steps: sampling steps.
        seed: of the noise.
        given_views: the references.
        fuse: let the model's fusion, if it has one, have the last word.

    Returns:
        Pictures by group, ``[B, F, 3, H, W]`` in [0, 1], on the CPU.

    Raises:
        UsageError: the model's task takes no reference.
    """
    count, views = batch.groups[VIEWS].images.shape[:2]
    plan = _plan(model, num_views=views, given_views=given_views)
    device = model.device
    groups = {name: group.to(device) for name, group in batch.groups.items()}
    visible = None if batch.visible is None else batch.visible.to(device)
    batch = replace(batch, groups=groups, visible=visible)
    if PROJECTION in plan.groups:
        base, copies = model.config.texture_base, model.config.decoupled.copy is not None
        batch = with_projection(batch, [plan] * count, base, copies=copies)
    encoder = BatchEncoder(
        model.codec, outside_weight=0.0, text_encoder=model.text_encoder, seed=seed
    )
    encoded = encoder(batch, indices, list(plan.groups))
    transformer = model.transformer
    sizes = {n: (x.shape[2], x.shape[3], x.shape[4]) for n, x in encoded.clean.items()}
    streams = transformer.config.streams(DEFAULT_STREAMS)
    layout = transformer.layout(sizes, {name: streams[name] for name in sizes})
    shown = encoded.foreground(sizes, transformer, model.config.foreground)
    cache = transformer.prepare(
        layout if shown is None else shown.layout(layout),
        geometry=encoded.geometry,
        text=encoded.text,
        clean=encoded.clean,
        batch_size=count,
    )
    given = [name for name in plan.groups if plan.has_role(name, Role.CONDITION)]
    place = next(transformer.parameters())
    known = KnownLatents(
        shapes={name: tuple(x.shape) for name, x in encoded.clean.items()},
        clean={name: encoded.clean[name].to(place) for name in given},
        device=place.device,
    )
    latents = sample(
        partial(transformer, cache=cache),
        plan,
        known,
        sigmas=inference_sigmas(steps, shift=model.config.sampling.shift),
        generator=generators_for(seed, "preview", indices),
        sampler=SAMPLERS.get(model.config.sampling.sampler),
        streams=streams,
    )
    latents = from_residual(latents, encoded.clean.get(PROJECTION), model.config.texture_base)
    latents = latents if shown is None else shown.cleared(latents, plan, model.codec)
    made = {n: model.codec.decode(x.float()).transpose(1, 2) for n, x in latents.items()}
    if PROJECTION in plan.groups and TEXTURE in made:
        made[TEXTURE] = _finished(made[TEXTURE], batch, given_views, model, fuse=fuse)
    return {name: images.cpu() for name, images in made.items()}


def _finished(
    textures: Tensor,
    batch: TrainingBatch,
    given_views: Sequence[int],
    model: SeqTexModel,
    *,
    fuse: bool,
) -> Tensor:
    """Textures ``[B, 1, 3, H, W]`` as users get them: what a view sees as it is, then fused."""
    assert batch.visible is not None  # the frame was made from it
    maps = batch.groups[TEXTURE]
    masks = maps.mask[:, 0, 0] > 0
    seen = batch.visible[:, list(given_views)].any(dim=1) & masks
    frames = batch.groups[PROJECTION].images[:, 0]
    rows = []
    for row, (texture, frame) in enumerate(zip(textures[:, 0], frames, strict=True)):
        made = kept_as_shown(texture, frame, seen[row], model.config.texture_base)
        if fuse and model.fusion is not None:
            made = fused(
                model.fusion,
                made,
                frame,
                seen=seen[row],
                position=maps.position[row, 0],
                normal=maps.normal[row, 0],
                mask=masks[row],
            )
        rows.append(made)
    return torch.stack(rows)[:, None]


def _plan(model: SeqTexModel, *, num_views: int, given_views: Sequence[int]) -> FramePlan:
    task = model.config.task
    if task not in REFERENCE_TASKS:
        raise UsageError(
            f"task of model {model.config.name!r}",
            expected="one that is given a reference: " + ", ".join(REFERENCE_TASKS),
            got=task,
        )
    plan = TASKS.get(task)(num_views=num_views, condition_views=tuple(given_views))
    return model.config.sampling.applied_to(plan)
