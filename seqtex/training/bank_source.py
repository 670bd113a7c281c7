"""Training batches from a geometry bank, painted anew for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.tasks import TEXTURE, VIEWS

from ..data.bank import GeometryBank
from ..data.sample import GeometryMaps, ObjectSample, TextureImages, draw_texture
from ..data.splits import HELD_OUT_KINDS, split_kinds
from ..data.synth import object_rng
from .batch import LIT_TASKS, GroupImages, SourceContext, TrainingBatch, check_options

_ORDER, _TEXTURE, _PREVIEW = 1, 2, 3


class BankSource:
    """Objects of a bank in a new random order every epoch, each in a fresh texture.

    Sample number n is the same object in the same texture in every run with the same seed and bank.

    Args:
        options: ``path`` of the bank; ``held_out_kinds``, texture kinds that training does not see
            (a default list otherwise); ``preview_path``, a bank of objects for previews (the same
            bank otherwise).
        context: sizes and seed of the run.

    Raises:
        UsageError: unknown options, or sizes that are not the bank's.
        InputError: no bank at ``path``.
    """

    def __init__(self, options: Mapping[str, Any], context: SourceContext) -> None:
        check_options("bank", options, ("path", "held_out_kinds", "preview_path"))
        if "path" not in options:
            raise UsageError("[data.options] of bank", expected="path of a bank", got="none")
        self._context = context
        self.bank = _checked(GeometryBank(context.path(options["path"])), context)
        preview = options.get("preview_path")
        self._preview_bank = self.bank
        if preview:
            self._preview_bank = _checked(GeometryBank(context.path(preview)), context)
        held_out = tuple(options.get("held_out_kinds", HELD_OUT_KINDS))
        self.kinds = split_kinds("train", held_out)
        self._preview_kinds = split_kinds("held-out", held_out) if held_out else self.kinds
        self._epoch, self._places = -1, np.empty(0, dtype=np.int64)

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        """Samples by number; see ``BatchSource``. ``geo2mv`` gets lit views."""
        lit = task in LIT_TASKS
        return painted_batch([self.painted(int(number), lit=lit) for number in indices])

    def preview(self, count: int) -> TrainingBatch:
        """Objects from the preview bank in texture kinds that training does not see."""
        made = []
        for number in range(min(count, len(self._preview_bank))):
            sample = self._sample(self._preview_bank, number)
            rng = object_rng(self._context.seed, _PREVIEW, number)
            made.append((sample.maps(), draw_texture(sample, rng, kinds=self._preview_kinds)))
        return painted_batch(made)

    def painted(self, number: int, *, lit: bool = False) -> tuple[GeometryMaps, TextureImages]:
        """Maps and pictures of sample ``number``."""
        sample = self._sample(self.bank, self.place(number))
        rng = object_rng(self._context.seed, _TEXTURE, number)
        return sample.maps(), draw_texture(sample, rng, kinds=self.kinds, lit=lit)

    def place(self, number: int) -> int:
        """Which object of the bank sample ``number`` shows; an epoch shows each object once."""
        epoch, step = divmod(number, len(self.bank))
        if epoch != self._epoch:
            rng = object_rng(self._context.seed, _ORDER, epoch)
            self._epoch, self._places = epoch, rng.permutation(len(self.bank))
        return int(self._places[step])

    def _sample(self, bank: GeometryBank, place: int) -> ObjectSample:
        return ObjectSample(bank.record(place).to(self._context.device), bank.sizes)


def painted_batch(made: Sequence[tuple[GeometryMaps, TextureImages]]) -> TrainingBatch:
    """Objects of one bank, each in a texture, as a batch."""
    maps, images = [m for m, _ in made], [i for _, i in made]
    views = GroupImages(
        images=torch.stack([image.views for image in images]),
        position=torch.stack([m.view_position for m in maps]),
        normal=torch.stack([m.view_normal for m in maps]),
        mask=torch.stack([m.view_mask for m in maps]),
    )
    texture = GroupImages(
        images=_one_frame([image.uv for image in images]),
        position=_one_frame([m.uv_position for m in maps]),
        normal=_one_frame([m.uv_normal for m in maps]),
        mask=_one_frame([m.uv_mask for m in maps]),
    )
    visible = torch.stack([m.uv_visible for m in maps])
    return TrainingBatch(groups={TEXTURE: texture, VIEWS: views}, visible=visible)


def _one_frame(images: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(images))[:, None]


def _checked(bank: GeometryBank, context: SourceContext) -> GeometryBank:
    sizes = bank.sizes
    found = (sizes.view_size, sizes.uv_size, sizes.supersample)
    wanted = (context.view_size, context.uv_size, context.supersample)
    if found != wanted:
        raise UsageError(
            f"bank {bank.folder}",
            expected="view size {}, uv size {}, supersample {}, as the model's".format(*wanted),
            got="{}, {}, {}".format(*found),
            remedy="Make a bank of these sizes, or change the model's under [model.overrides].",
        )
    if len(bank) == 0:
        raise UsageError(f"bank {bank.folder}", expected="at least one object", got="none")
    return bank
