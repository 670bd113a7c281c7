"""Sample grids: what the model makes of objects that it never saw, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from seqtex_backbones.unipc import SAMPLERS
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.frame_plan import DEFAULT_STREAMS
from seqtex_core.frame_run import KnownLatents
from seqtex_core.roles import Role
from seqtex_core.sampling import sample
from seqtex_core.tasks import PROJECTION, TASKS, TEXTURE, VIEWS
from seqtex_geometry.contact_sheet import save_contact_sheet

from ..models.load import SeqTexModel
from .batch import GroupImages, TrainingBatch
from .encode import BatchEncoder
from .projection import with_projection
from .randomness import generators_for


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """Textures and views made from one given view.

    Args:
        made: pictures by group, ``[B, F, 3, H, W]`` in [0, 1].
        psnr: of every texture on its charts, in dB, ``[B]``; 60 at most.
    """

    made: Mapping[str, Tensor]
    psnr: Tensor


@torch.no_grad()
def make_preview(
    model: SeqTexModel, batch: TrainingBatch, *, steps: int, seed: int, given_view: int = 0
) -> Preview:
    """Sample the model's own task for every object of a batch.

    Args:
        model: as users load it.
        batch: with views and textures.
        steps: sampling steps.
        seed: of the noise.
        given_view: the reference.
    """
    count = batch.groups[VIEWS].images.shape[0]
    indices = list(range(count))
    encoder = BatchEncoder(
        model.codec, outside_weight=0.0, text_encoder=model.text_encoder, seed=seed
    )
    views = batch.groups[VIEWS].images.shape[1]
    plan = TASKS.get(model.config.task)(num_views=views, condition_views=(given_view,))
    if PROJECTION in plan.groups:
        batch = with_projection(batch, [plan] * count)
    encoded = encoder(batch, indices, list(plan.groups))
    place = next(model.transformer.parameters())
    transformer = model.transformer
    sizes = {n: (x.shape[2], x.shape[3], x.shape[4]) for n, x in encoded.clean.items()}
    layout = transformer.layout(sizes, {name: DEFAULT_STREAMS[name] for name in sizes})
    cache = transformer.prepare(
        layout, geometry=encoded.geometry, text=encoded.text, batch_size=count
    )
    given = [name for name in plan.groups if plan.has_role(name, Role.CONDITION)]
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
    )
    made = {n: model.codec.decode(x.float()).transpose(1, 2).cpu() for n, x in latents.items()}
    return Preview(made=made, psnr=masked_psnr(made[TEXTURE], batch.groups[TEXTURE]))


def masked_psnr(images: Tensor, truth: GroupImages) -> Tensor:
    """PSNR per object over covered texels, in dB, ``[B]``, cut at 60."""
    mask = truth.mask.cpu()
    squared = (images - truth.images.cpu()).square() * mask
    mass = 3 * mask.sum(dim=(1, 2, 3, 4)).clamp(min=1)
    error = squared.sum(dim=(1, 2, 3, 4)) / mass
    return -10 * torch.log10(error.clamp(min=1e-6))


def save_preview(path: Path, batch: TrainingBatch, preview: Preview) -> None:
    """A PNG with two rows per object, truth and made: the views, then the texture."""
    rows: dict[str, Tensor] = {}
    size = batch.groups[TEXTURE].images.shape[-1]
    for index, psnr in enumerate(preview.psnr.tolist()):
        true = {name: group.images[index].cpu() for name, group in batch.groups.items()}
        made = {name: images[index] for name, images in preview.made.items()}
        mask = batch.groups[TEXTURE].mask[index].cpu()
        rows[f"{index} truth"] = _strip(true[VIEWS], true[TEXTURE], size)
        rows[f"{index} made {psnr:.1f} dB"] = _strip(made[VIEWS], made[TEXTURE] * mask, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    save_contact_sheet(scratch, rows)
    scratch.replace(path)


def _strip(views: Tensor, texture: Tensor, size: int) -> Tensor:
    enlarged = torch.nn.functional.interpolate(views, (size, size), mode="nearest")
    return torch.cat([enlarged, texture])
