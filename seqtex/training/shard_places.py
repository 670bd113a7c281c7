"""Where the samples of a set of shards lie, so that they can be read at random."""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from ..data.bank import INDEX_NAME
from ..data.stream import StreamedSample, decoded

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardPlaces:
    """Where every sample of some shards lies: a few numbers each, whatever the samples' size.

    Args:
        shards: the tar files.
        shard: number of the file of every sample, ``[N]``.
        start: first byte of every sample, ``[N]``.
        stop: byte behind it, ``[N]``.
        textured: whether the sample has a texture, boolean ``[N]``.
        name: of the set; the same name always means the same samples.
    """

    shards: tuple[Path, ...]
    shard: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    textured: npt.NDArray[np.bool_]
    name: str

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
        return cls(
            shards=shards,
            shard=table[:, 0],
            start=table[:, 1],
            stop=table[:, 2],
            textured=table[:, 3] > 0,
            name=_set_name(folder),
        )

    def with_textures(self) -> ShardPlaces:
        """The samples that have a texture."""
        keep = self.textured
        return replace(
            self,
            shard=self.shard[keep],
            start=self.start[keep],
            stop=self.stop[keep],
            textured=self.textured[keep],
        )

    def shard_of(self, place: int) -> Path:
        """The file of the sample at ``place``."""
        return self.shards[int(self.shard[place])]

    def read(self, place: int) -> StreamedSample:
        """The sample at ``place``.

        Raises:
            InputError: a part of it cannot be read.
            OSError, TarError: it is not there, or no part of a tar file.
        """
        start, stop = int(self.start[place]), int(self.stop[place])
        with self.shard_of(place).open("rb") as file:
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


def _set_name(folder: Path) -> str:
    """A name that changes with the place and the description of a set."""
    described = folder / INDEX_NAME
    content = described.read_bytes() if described.is_file() else b""
    return hashlib.sha256(str(folder.resolve()).encode() + content).hexdigest()[:12]


def _sample_spans(path: Path) -> list[tuple[int, int, int]]:
    """First byte, end, and whether there is a texture, of every sample; from a shard's headers."""
    spans: list[tuple[int, int, int]] = []
    size = path.stat().st_size
    current = ""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                stem, _, extension = info.name.rpartition("/")[2].partition(".")
                stop = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if stop > size:
                    raise tarfile.ReadError(f"{info.name} breaks off")
                is_texture = int(extension == "uv.png")
                if stem == current:
                    start, _, textured = spans.pop()
                    spans.append((start, stop, textured | is_texture))
                else:
                    spans.append((info.offset, stop, is_texture))
                current = stem
    except (tarfile.TarError, OSError) as error:
        _LOG.warning("shard %s is damaged, the rest of it is skipped: %s", path, error)
        spans = spans[:-1]
    return spans
