"""Training batches from shards, read at random places."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
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
from ..data.stream import StreamedSample, decoded
from ..data.synth import object_rng
from .batch import GroupImages, SourceContext, TrainingBatch, check_options

_LOG = logging.getLogger(__name__)
_ORDER = 31
_ATTEMPTS = 16
LIT_TASKS = ("geo2mv",)
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
class ShardPlaces:
    """Where every sample of some shards lies: a few numbers each, whatever the samples' size.

    Args:
        shards: the tar files.
        shard: number of the file of every sample, ``[N]``.
        start: first byte of every sample, ``[N]``.
        stop: byte behind it, ``[N]``.
    """

    shards: tuple[Path, ...]
    shard: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shard)

    @classmethod
    def scan(cls, folder: Path) -> ShardPlaces:
        """Read the headers of all shards in a folder; what is damaged is reported and left out.

        Raises:
            InputError: no shards, or no samples in them.
        """
        shards = tuple(sorted(folder.glob("*.tar")))
        rows = [
            (number, *span) for number, path in enumerate(shards) for span in _sample_spans(path)
        ]
        if not rows:
            raise InputError(
                str(folder), expected="shards (*.tar) with samples", got=f"{len(shards)} shards"
            )
        table = np.array(rows, dtype=np.int64)
        return cls(shards=shards, shard=table[:, 0], start=table[:, 1], stop=table[:, 2])

    def read(self, place: int) -> StreamedSample:
        """The sample at ``place``.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        start, stop = int(self.start[place]), int(self.stop[place])
        with self.shards[int(self.shard[place])].open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        members: dict[str, bytes] = {}
        key = ""
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for info in tar:
                key, _, extension = info.name.rpartition("/")[2].partition(".")
                part = tar.extractfile(info)
                members[extension] = part.read() if part else b""
        return decoded(key, members)


class ShardSource:
    """Finished samples from shards in a new random order every epoch; see ``BatchSource``.

    Args:
        options: ``path``, a folder of shards; ``mv_only_path``, shards without textures, which
            join the tasks that need none; ``preview_path``, shards that training does not see.
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
        self._with_texture: tuple[ShardPlaces, ...] = (full,)
        self._without: tuple[ShardPlaces, ...] = (full,)
        if "mv_only_path" in options:
            self._without = (full, ShardPlaces.scan(context.path(options["mv_only_path"])))
        preview = options.get("preview_path", options["path"])
        self._preview = ShardPlaces.scan(context.path(preview))
        self._order = lru_cache(maxsize=4)(self._draw_order)

    def batch(self, indices: Sequence[int], task: str) -> TrainingBatch:
        """Samples by number; ``geo2mv`` gets lit views and objects without textures too."""
        lit = task in LIT_TASKS
        sets = self._without if lit else self._with_texture
        samples = [self._sample(sets, int(index), lit=lit) for index in indices]
        return self._join(samples, lit=lit)

    def preview(self, count: int) -> TrainingBatch:
        """The first samples of the preview set."""
        total = len(self._preview)
        return self._join([self._preview.read(k % total) for k in range(count)], lit=False)

    def _sample(self, sets: tuple[ShardPlaces, ...], number: int, *, lit: bool) -> StreamedSample:
        """Sample ``number``; one that cannot be read is reported and replaced by the next."""
        total = sum(len(places) for places in sets)
        epoch, step = divmod(number, total)
        for attempt in range(_ATTEMPTS):
            place = int(self._order(total, epoch)[(step + attempt) % total])
            for places in sets:
                if place < len(places):
                    break
                place -= len(places)
            try:
                sample = places.read(place)
                needed = "lit0" if lit else "uv"
                if needed not in sample.images or "sizes" not in sample.meta:
                    raise ValueError(f"sample {sample.key} has no {needed}.png or no sizes")
                return sample
            except _UNREADABLE as error:
                _LOG.warning("sample %d of %s is skipped: %s", place, places.shards[0], error)
        raise InputError(
            "shards", expected="samples that can be read", got=f"{_ATTEMPTS} damaged in a row"
        )

    def _draw_order(self, total: int, epoch: int) -> npt.NDArray[np.int64]:
        return object_rng(self._context.seed, _ORDER, epoch).permutation(total)

    def _join(self, samples: Sequence[StreamedSample], *, lit: bool) -> TrainingBatch:
        maps = [self._maps(sample) for sample in samples]
        names = [f"{'lit' if lit else 'view'}{k}" for k in range(len(maps[0].view_mask))]
        groups = {
            VIEWS: GroupImages(
                images=torch.stack([torch.stack([s.images[n] for n in names]) for s in samples]),
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
        keys = [sample.key for sample in samples]
        device = self._context.device
        return TrainingBatch(
            groups={name: group.to(device) for name, group in groups.items()},
            keys=[f"{key}-{'lit' if lit else 'albedo'}" for key in keys],
            geometry_keys=keys,
            captions=[str(s.meta.get("caption", "")) for s in samples]
            if any("caption" in s.meta for s in samples)
            else None,
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


def _sample_spans(path: Path) -> list[tuple[int, int]]:
    """First byte and end of every sample of a shard, from its headers."""
    spans: list[tuple[int, int]] = []
    size = path.stat().st_size
    current = ""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                stem = info.name.rpartition("/")[2].partition(".")[0]
                stop = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if stop > size:
                    raise tarfile.ReadError(f"{info.name} breaks off")
                if stem == current:
                    spans[-1] = (spans[-1][0], stop)
                else:
                    spans.append((info.offset, stop))
                current = stem
    except (tarfile.TarError, OSError) as error:
        _LOG.warning("shard %s is damaged, the rest of it is skipped: %s", path, error)
        spans = spans[:-1]
    return spans
