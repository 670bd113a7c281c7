"""Training batches from shards, read at random places."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import UnidentifiedImageError
from safetensors import SafetensorError
from torch import Tensor

from seqtex_core.errors import InputError, UsageError
from seqtex_core.tasks import TEXTURE, VIEWS

from ..data.record import GeometryRecord, RecordSizes
from ..data.sample import GeometryMaps, ObjectSample
from ..data.shards import lit_name
from ..data.stream import StreamedSample
from ..data.synth import object_rng
from .batch import LIT_TASKS, GroupImages, SourceContext, TrainingBatch, check_options
from .randomness import Purpose, generator_for
from .shard_places import ShardPlaces

_LOG = logging.getLogger(__name__)
_ORDER = 31
_ATTEMPTS = 16
# Pillow reports broken PNG chunks as SyntaxError
_UNREADABLE = (
    ValueError,
    OSError,
    SyntaxError,
    KeyError,
    tarfile.TarError,
    SafetensorError,
    UnidentifiedImageError,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """A sample as one step uses it."""

    sample: StreamedSample
    set_name: str
    light: int = 0
    caption: str = ""

    def views(self, count: int, *, lit: bool) -> Tensor:
        """Its pictures, ``[count, 3, h, w]``."""
        names = [lit_name(k, self.light) if lit else f"view{k}" for k in range(count)]
        return torch.stack([self.sample.images[name] for name in names])


class ShardSource:
    """Finished samples from shards in a new random order every epoch; see ``BatchSource``.

    Args:
        options: ``path``, a folder of shards; ``mv_only_path``, more shards for the tasks that need
            no texture; ``preview_path``, shards that training does not see. Samples without a
            texture join the tasks that need none wherever they lie.
        context: sizes and seed of the run.

    Raises:
        UsageError: unknown options, or sizes that are not the shards'.
        InputError: no samples there.
    """

    def __init__(self, options: Mapping[str, Any], context: SourceContext) -> None:
        check_options("shards", options, ("path", "mv_only_path", "preview_path"))
        if "path" not in options:
            raise UsageError("[data.options] of shards", expected="path of a folder", got="none")
        self._context = context
        full = ShardPlaces.scan(context.path(options["path"]))
        self._with_texture: tuple[ShardPlaces, ...] = (full.with_textures(),)
        self._without: tuple[ShardPlaces, ...] = (full,)
        if "mv_only_path" in options:
            self._without = (full, ShardPlaces.scan(context.path(options["mv_only_path"])))
        shown = full
        if "preview_path" in options:
            shown = ShardPlaces.scan(context.path(options["preview_path"]))
        self._preview = shown.with_textures() if shown.textured.any() else shown
        self._order = lru_cache(maxsize=4)(self._draw_order)
        self._reported: set[tuple[str, int]] = set()

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        """Samples by number; ``geo2mv`` gets lit views and objects without textures too."""
        lit = task in LIT_TASKS
        sets = self._without if lit else self._with_texture
        return self._join([self._drawn(sets, int(index), lit=lit) for index in indices], lit=lit)

    def preview(self, count: int) -> TrainingBatch:
        """The first samples with textures of the preview set; lit views if there are none."""
        places = self._preview
        lit = not places.textured.any()
        found = (self._read(places, place, lit=lit) for place in range(len(places)))
        samples = list(islice((sample for sample in found if sample is not None), count))
        if not samples:
            raise _all_damaged(places, len(places))
        return self._join([_Drawn(sample=s, set_name=places.name) for s in samples], lit=lit)

    def _read(self, places: ShardPlaces, place: int, *, lit: bool) -> StreamedSample | None:
        """A sample; ``None`` for one that cannot be used, which is reported once."""
        needed = "lit0" if lit else "uv"
        try:
            sample = places.read(place)
            if needed not in sample.images or "sizes" not in sample.meta:
                raise InputError(
                    sample.key, expected=f"{needed}.png and sizes in meta.json", got="not both"
                )
        except _UNREADABLE as error:
            if (places.name, place) not in self._reported:
                self._reported.add((places.name, place))
                _LOG.warning("a sample of %s is skipped: %s", places.shard_of(place), error)
            return None
        return sample

    def _drawn(self, sets: tuple[ShardPlaces, ...], number: int, *, lit: bool) -> _Drawn:
        """Sample ``number``; one that cannot be read is reported and replaced by the next."""
        total = sum(len(places) for places in sets)
        if not total:
            raise InputError(
                f"shards {sets[0].shards[0].parent}",
                expected="samples with textures, for a task that learns them",
                got="views only",
            )
        epoch, step = divmod(number, total)
        for attempt in range(_ATTEMPTS):
            place = int(self._order(total, epoch)[(step + attempt) % total])
            for places in sets:
                if place < len(places):
                    break
                place -= len(places)
            sample = self._read(places, place, lit=lit)
            if sample is None:
                continue
            return _Drawn(
                sample=sample,
                set_name=places.name,
                light=self._draw(number, "light", int(sample.meta.get("lightings", 1))),
                caption=self._caption(sample, number),
            )
        raise _all_damaged(places, _ATTEMPTS)

    def _caption(self, sample: StreamedSample, number: int) -> str:
        """One of the captions, whatever their style, drawn anew in every epoch."""
        texts = [str(text) for _, text in sorted(dict(sample.meta.get("captions", {})).items())]
        texts = texts or [str(sample.meta.get("caption", ""))]
        return texts[self._draw(number, "style", len(texts))]

    def _draw(self, number: int, purpose: Purpose, count: int) -> int:
        """A number below ``count`` that depends on the seed and the sample's number alone."""
        draw = generator_for(self._context.seed, purpose, number)
        return int(torch.randint(count, (), generator=draw))

    def _draw_order(self, total: int, epoch: int) -> npt.NDArray[np.int64]:
        return object_rng(self._context.seed, _ORDER, epoch).permutation(total)

    def _join(self, drawn: Sequence[_Drawn], *, lit: bool) -> TrainingBatch:
        samples = [one.sample for one in drawn]
        maps = [self._maps(sample) for sample in samples]
        groups = {
            VIEWS: GroupImages(
                images=torch.stack([one.views(len(maps[0].view_mask), lit=lit) for one in drawn]),
                position=torch.stack([m.view_position for m in maps]),
                normal=torch.stack([m.view_normal for m in maps]),
                mask=torch.stack([m.view_mask for m in maps]),
            )
        }
        if not lit:
            groups[TEXTURE] = GroupImages(
                images=_one_frame([sample.images["uv"] for sample in samples]),
                position=_one_frame([m.uv_position for m in maps]),
                normal=_one_frame([m.uv_normal for m in maps]),
                mask=_one_frame([m.uv_mask for m in maps]),
            )
        keys = [f"{one.set_name}-{one.sample.key}" for one in drawn]
        kinds = [f"lit{one.light}" if lit else "albedo" for one in drawn]
        captions = [one.caption for one in drawn]
        device = self._context.device
        return TrainingBatch(
            groups={name: group.to(device) for name, group in groups.items()},
            keys=[f"{key}-{kind}" for key, kind in zip(keys, kinds, strict=True)],
            geometry_keys=keys,
            captions=captions,
            visible=None if lit else torch.stack([m.uv_visible for m in maps]).to(device),
        )

    def _maps(self, sample: StreamedSample) -> GeometryMaps:
        sizes = RecordSizes(**sample.meta["sizes"])
        wanted = (self._context.view_size, self._context.uv_size)
        if (sizes.view_size, sizes.uv_size) != wanted:
            raise UsageError(
                f"sample {sample.key}",
                expected=f"views of {wanted[0]} and textures of {wanted[1]} pixels",
                got=f"{sizes.view_size} and {sizes.uv_size}",
                remedy="Make shards of the run's sizes, or change the run's.",
            )
        record = GeometryRecord.from_tensors(sample.tensors, source=f"sample {sample.key}")
        return ObjectSample(record, sizes).maps()


def _one_frame(images: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(images))[:, None]


def _all_damaged(places: ShardPlaces, count: int) -> InputError:
    folder = places.shards[0].parent
    return InputError(
        f"shards {folder}", expected="samples that can be read", got=f"{count} damaged in a row"
    )
