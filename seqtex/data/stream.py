"""Streaming samples from shards: shuffled, split over processes, in constant memory."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from seqtex_core.errors import InputError, UsageError

from .shards import image_of_png
from .synth import object_rng

_LOG = logging.getLogger(__name__)
_ORDER, _SHUFFLE = 21, 22
T = TypeVar("T")
# Pillow reports broken PNG chunks as SyntaxError.
_UNREADABLE = (ValueError, OSError, SyntaxError, SafetensorError, UnidentifiedImageError)
_CONTENT = {"png": "a PNG image", "safetensors": "tensors (safetensors)", "json": "JSON"}


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedSample:
    """One object as read from a shard.

    Args:
        key: its name, unique in the set.
        images: sRGB ``[3, H, W]`` in [0, 1] by name ("view0", "lit0", "uv").
        tensors: by name, of all safetensors members together.
        meta: of ``meta.json``, and of other JSON members by name.
    """

    key: str
    images: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A shard, or a part of one, that could not be read.

    Args:
        shard: its path.
        key: the sample, or "" where the tar file itself broke off.
        reason: the error.
    """

    shard: str
    key: str
    reason: str


class ShardStream(IterableDataset[StreamedSample]):
    """Samples of a set of shards; an epoch gives each sample once over all consumers.

    Shards are read in an order drawn from the seed and the epoch, and dealt out to the ranks and
    their loader workers. If there are fewer shards than consumers, every consumer reads all shards
    and takes its share of the samples. What cannot be read is reported and skipped.

    Args:
        shards: paths, or a folder of ``*.tar`` files.
        seed: of the order.
        shuffle_buffer: samples held to be drawn from at random; 0 or 1 keeps the shards' order.
        rank: this process.
        world_size: number of processes.
        on_damage: told of each damage; a warning is logged in any case, once for each.

    Raises:
        InputError: no shards there.
        UsageError: a rank outside the world.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        seed: int = 0,
        shuffle_buffer: int = 256,
        rank: int = 0,
        world_size: int = 1,
        on_damage: Callable[[Damage], None] | None = None,
    ) -> None:
        super().__init__()
        self.shards = _listed(shards)
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        if not 0 <= rank < world_size:
            raise UsageError("rank", expected=f"0 to {world_size - 1}", got=str(rank))
        self._rank, self._world_size = rank, world_size
        self._epoch = 0
        self._on_damage = on_damage
        self._logged: set[Damage] = set()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; the same epoch gives the same order."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[StreamedSample]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        consumer, consumers = self._rank * workers + number, self._world_size * workers
        rng = object_rng(self.seed, _ORDER, self._epoch)
        order = [self.shards[k] for k in rng.permutation(len(self.shards))]
        if len(order) >= consumers:
            samples = self._samples(order[consumer::consumers], 0, 1)
        else:
            samples = self._samples(order, consumer, consumers)
        shuffle = object_rng(self.seed, _SHUFFLE, self._epoch, consumer)
        yield from _shuffled(samples, self.shuffle_buffer, shuffle.integers)

    def _samples(self, shards: Sequence[Path], share: int, shares: int) -> Iterator[StreamedSample]:
        for shard in shards:
            for number, (key, members) in enumerate(self._groups(shard)):
                if number % shares != share:
                    continue
                try:
                    yield decoded(key, members)
                except _UNREADABLE as error:
                    self._report(shard, key, error)

    def _groups(self, shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Keys and members of a shard, read from front to back."""
        key, members = "", dict[str, bytes]()
        try:
            with tarfile.open(shard, "r|") as tar:
                for info in tar:
                    if not info.isfile():
                        continue
                    content = tar.extractfile(info)
                    data = content.read() if content else b""
                    if len(data) != info.size:
                        raise tarfile.ReadError(f"{info.name} breaks off")
                    stem, _, extension = info.name.rpartition("/")[2].partition(".")
                    if stem != key and members:
                        yield key, members
                        members = {}
                    key = stem
                    members[extension] = data
                _check_end(shard, tar.offset)
        except (tarfile.TarError, OSError, EOFError) as error:
            self._report(shard, "", error)
            return  # the sample at the break is not complete
        if members:
            yield key, members

    def _report(self, shard: Path, key: str, error: Exception) -> None:
        damage = Damage(shard=str(shard), key=key, reason=str(error))
        where = f"sample {key} of {shard}" if key else f"shard {shard}"
        if damage not in self._logged:
            self._logged.add(damage)
            _LOG.warning("%s cannot be read and is skipped: %s", where, damage.reason)
        if self._on_damage is not None:
            self._on_damage(damage)


def _check_end(shard: Path, offset: int) -> None:
    """``tarfile`` takes any bad header after the first for the end; a whole file ends in zeros."""
    with shard.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end mark at byte {offset}")


def decoded(key: str, members: Mapping[str, bytes]) -> StreamedSample:
    """The sample of the members of one key; members of other kinds are left out.

    Raises:
        InputError: a member cannot be read; names it.
    """
    images: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {}
    for extension, content in members.items():
        name, _, kind = extension.rpartition(".")
        try:
            if kind == "png":
                images[name] = image_of_png(content)
            elif kind == "safetensors":
                tensors |= load(content)
            elif kind == "json":
                value = json.loads(io.BytesIO(content).read())
                meta |= value if name in ("meta", "") else {name: value}
        except (*_UNREADABLE, TypeError) as error:
            raise InputError(
                f"{key}.{extension}",
                expected=_CONTENT[kind],
                got=f"{len(content)} bytes that do not decode ({type(error).__name__})",
            ) from error
    return StreamedSample(key=key, images=images, tensors=tensors, meta=meta)


def _shuffled(samples: Iterator[T], size: int, draw: Callable[[int], Any]) -> Iterator[T]:
    """The samples in an order drawn from a buffer of ``size``."""
    buffer: list[T] = []
    for sample in samples:
        if size <= 1:
            yield sample
            continue
        buffer.append(sample)
        if len(buffer) >= size:
            place = int(draw(len(buffer)))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    while buffer:
        place = int(draw(len(buffer)))
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


def _listed(shards: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    if isinstance(shards, (str, Path)):
        folder = Path(shards)
        found = sorted(folder.glob("*.tar")) if folder.is_dir() else [folder]
    else:
        found = [Path(shard) for shard in shards]
    if not found:
        raise InputError(
            f"shards {shards}",
            expected="a folder with *.tar files",
            got="none",
            remedy="Make some with `seqtex data synth FOLDER --format shards`.",
        )
    return tuple(found)
