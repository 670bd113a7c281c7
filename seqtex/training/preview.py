"""Sample grids: what the model makes of objects that it never saw, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seqtex_core.tasks import TEXTURE, VIEWS
from seqtex_core.whole_files import replacing
from seqtex_geometry.contact_sheet import save_contact_sheet

from ..models.load import SeqTexModel
from .batch import GroupImages, TrainingBatch
from .batch_sampling import sample_batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """Textures and views made from one given view.

    Args:
        made: pictures by group, ``[B, F, 3, H, W]`` in [0, 1].
        psnr: of every texture on its charts, in dB, ``[B]``; 60 at most.
    """

    made: Mapping[str, Tensor]
    psnr: Tensor


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
    made = sample_batch(
        model, batch, list(range(count)), steps=steps, seed=seed, given_views=(given_view,)
    )
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
    with replacing(path) as temporary:
        save_contact_sheet(temporary, rows)


def _strip(views: Tensor, texture: Tensor, size: int) -> Tensor:
    enlarged = torch.nn.functional.interpolate(views, (size, size), mode="nearest")
    return torch.cat([enlarged, texture])
