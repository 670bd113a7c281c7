"""Making synthetic sets on disk: in parallel, resumable, split over machines, atomic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from seqtex_core.errors import UsageError
from seqtex_core.weight_files import write_tensors

from .bank import FORMAT, BankEntry, bank_metadata, num_records, stacked_records
from .set_record import claim
from .shards import num_samples, write_synthetic_shard
from .synth import GENERATOR_VERSION, SynthSettings, make_object
from .worker_processes import results_in_processes

SetFormat = Literal["bank", "shards"]
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Production:
    """A synthetic set to be made.

    Args:
        folder: where it goes.
        count: number of objects, numbers 0 to ``count - 1``.
        settings: what the objects are.
        format: ``bank`` for training with fresh textures, ``shards`` for streams.
        per_file: objects in each file.
        rank: this machine's number; it makes every ``world_size``-th file.
        world_size: number of machines.
    """

    folder: Path
    count: int
    settings: SynthSettings = field(default_factory=SynthSettings)
    format: SetFormat = "bank"
    per_file: int = 64
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.per_file < 1:
            raise UsageError(
                "count", expected="at least 1 object, and 1 per file", got=str(self.count)
            )
        if not 0 <= self.rank < self.world_size:
            raise UsageError("rank", expected=f"0 to {self.world_size - 1}", got=str(self.rank))

    @property
    def num_files(self) -> int:
        """Files of the whole set."""
        return -(-self.count // self.per_file)

    def file_name(self, number: int) -> str:
        """Name of file ``number``."""
        return f"{'shapes' if self.format == 'bank' else 'shard'}-{number:05d}." + (
            "safetensors" if self.format == "bank" else "tar"
        )

    def objects(self, number: int) -> range:
        """Numbers of the objects in file ``number``."""
        start = number * self.per_file
        return range(start, min(start + self.per_file, self.count))

    def description(self) -> dict[str, Any]:
        """What makes two sets the same."""
        return {
            "format": FORMAT,
            "kind": self.format,
            "count": self.count,
            "per_file": self.per_file,
            "generator": GENERATOR_VERSION,
            "settings": asdict(self.settings),
            "files": [self.file_name(number) for number in range(self.num_files)],
        }


def produce(
    production: Production, *, workers: int = 1, on_progress: OnProgress | None = None
) -> list[Path]:
    """Make the files of this rank that are not there yet.

    A file appears under its name only when it is complete, so a run that was stopped is continued
    by the same command. With a larger count a set that is there is made longer.

    Args:
        production: what to make.
        workers: processes.
        on_progress: called with stage, files done and files wanted.

    Returns:
        The files of this rank.

    Raises:
        UsageError: the folder holds another set, or is none.
    """
    claim(production.folder, production.description(), grows=True)
    mine = range(production.rank, production.num_files, production.world_size)
    paths = [production.folder / production.file_name(number) for number in mine]
    missing = [number for number in mine if not _is_whole(production, number)]
    report = on_progress or (lambda stage, done, total: None)
    report("Objects", len(paths) - len(missing), len(paths))
    done = len(paths) - len(missing)
    for _ in _made(production, missing, workers):
        done += 1
        report("Objects", done, len(paths))
    return paths


def _is_whole(production: Production, number: int) -> bool:
    """Whether a file holds all its objects: the last one of a shorter set holds fewer."""
    path = production.folder / production.file_name(number)
    count = num_records if production.format == "bank" else num_samples
    return path.exists() and count(path) == len(production.objects(number))


def _made(production: Production, numbers: list[int], workers: int) -> Iterator[int]:
    if workers <= 1 or len(numbers) <= 1:
        for number in numbers:
            make_file(production, number)
            yield number
        return
    results = results_in_processes(
        numbers,
        partial(_make_alone, production),
        workers=min(workers, len(numbers)),
        name=production.file_name,
    )
    for number, _ in results:
        yield number


def _make_alone(production: Production, number: int) -> None:
    """A worker's job: one file, on one thread."""
    import torch

    torch.set_num_threads(1)
    make_file(production, number)


def make_file(production: Production, number: int) -> None:
    """Make file ``number`` of a set."""
    path = production.folder / production.file_name(number)
    if production.format == "shards":
        write_synthetic_shard(path, production.settings, production.objects(number))
        return
    records, entries = [], []
    for index in production.objects(number):
        made = make_object(production.settings, index)
        records.append(made.record)
        entries.append(
            BankEntry(index=index, family=made.mesh.family, chart_style=made.mesh.chart_style)
        )
    write_tensors(path, stacked_records(records), metadata=bank_metadata(entries))
