"""Sets of real meshes on disk: in parallel, resumable, split over machines, with a report."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from seqtex_core.errors import SeqTexError, UsageError
from seqtex_core.whole_files import replacing
from seqtex_geometry.rasterize import choose_rasterizer

from .mesh_files import MeshFile, find_meshes, read_caption_table
from .real_sample import RealSample, SampleOptions, prepare_mesh
from .set_record import claim
from .shards import ShardWriter
from .worker_processes import JobEnd, in_processes

FORMAT = 1
ORIGIN = "meshes"
REPORT = "report.jsonl"
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A set of real meshes to be prepared.

    Args:
        source: folder with mesh files, searched with all folders below it.
        folder: where the set goes.
        options: how meshes become samples.
        captions: JSON Lines file with captions; those beside the meshes are read in any case.
        per_shard: mesh files of a shard.
        rank: this machine's number; it makes every ``world_size``-th shard.
        world_size: number of machines.
        timeout_s: a mesh that takes longer is given up.
    """

    source: Path
    folder: Path
    options: SampleOptions = field(default_factory=SampleOptions)
    captions: Path | None = None
    per_shard: int = 64
    rank: int = 0
    world_size: int = 1
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError("rank", expected=f"0 to {self.world_size - 1}", got=str(self.rank))
        if self.per_shard < 1 or self.timeout_s <= 0:
            raise UsageError(
                "per_shard, timeout_s",
                expected="at least 1, more than 0",
                got=f"{self.per_shard}, {self.timeout_s}",
            )


@dataclass(frozen=True, kw_only=True)
class MeshJob:
    """One mesh file for a worker.

    Args:
        source: folder that the name is meant from.
        name: of the file.
        number: of the file in the set.
        options: how it becomes a sample.
        captions: from the table, by style.
    """

    source: Path
    name: str
    number: int
    options: SampleOptions
    captions: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshEnd:
    """What became of a mesh: a sample, or the reason why there is none."""

    sample: RealSample | None
    reason: str = ""


def prepare_meshes(
    preparation: Preparation, *, workers: int = 1, on_progress: OnProgress | None = None
) -> list[dict[str, Any]]:
    """Make the shards of this rank that are not there yet, and the report.

    A shard appears under its name only when it is complete, so a run that was stopped is continued
    by the same command. Meshes that cannot be used are listed and do not stop it.

    Args:
        preparation: what to make.
        workers: processes; 0 works in this one, where a mesh that crashes ends everything.
        on_progress: called with stage, meshes done and meshes wanted, of this rank.

    Returns:
        The report: one entry per mesh of all shards that are there, in order.

    Raises:
        InputError: no meshes, or a caption file that cannot be read.
        UsageError: the folder holds another set, or is none.
    """
    files = find_meshes(preparation.source, leave_out=preparation.folder)
    table = {} if preparation.captions is None else read_caption_table(preparation.captions)
    _check_named(table, files)
    _claim(preparation, files, table)
    count = -(-len(files) // preparation.per_shard)
    mine = range(preparation.rank, count, preparation.world_size)
    missing = [shard for shard in mine if not _record_path(preparation, shard).exists()]
    jobs = [job for shard in missing for job in _jobs(preparation, files, table, shard)]
    total = sum(len(_numbers(preparation, files, shard)) for shard in mine)
    report = on_progress or (lambda stage, done, total: None)
    done = total - len(jobs)
    report("Meshes", done, total)
    open_shards = {shard: _OpenShard(preparation, shard) for shard in missing}
    left = {shard: len(_numbers(preparation, files, shard)) for shard in missing}
    for end in _worked(jobs, workers, preparation.timeout_s):
        shard = end.job.number // preparation.per_shard
        open_shards[shard].add(end)
        left[shard] -= 1
        if not left[shard]:
            open_shards.pop(shard).write()
        done += 1
        report("Meshes", done, total)
    return _gather_report(preparation, count)


def prepare_in_worker(job: MeshJob) -> MeshEnd:
    """One mesh; what goes wrong is told, never raised."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the cores are the workers'
    try:
        sample = prepare_mesh(
            job.source,
            job.name,
            job.number,
            job.options,
            captions=job.captions,
            rasterizer=choose_rasterizer("auto"),
        )
    except SeqTexError as error:
        subject = error.subject.replace(f"{job.source}/", "")
        return MeshEnd(sample=None, reason=f"{subject}: expected {error.expected}, got {error.got}")
    except MemoryError:
        return MeshEnd(sample=None, reason="not enough memory")
    except Exception as error:  # one mesh must not stop the others
        return MeshEnd(sample=None, reason=f"unexpected {type(error).__name__}: {error}")
    return MeshEnd(sample=sample, reason=sample.reason)


class _OpenShard:
    """Collects the samples of one shard until all of its meshes are done."""

    def __init__(self, preparation: Preparation, shard: int) -> None:
        self._path = preparation.folder / f"shard-{shard:05d}.tar"
        self._record = _record_path(preparation, shard)
        self._entries: dict[int, dict[str, Any]] = {}
        self._members: dict[int, dict[str, bytes]] = {}

    def add(self, end: JobEnd[MeshJob, MeshEnd]) -> None:
        made = end.result or MeshEnd(sample=None, reason=end.failure)
        sample, number = made.sample, end.job.number
        entry: dict[str, Any] = {
            "file": end.job.name,
            "status": "bad" if sample is None else sample.status,
            "reason": made.reason,
            "seconds": round(end.seconds, 2),
        }
        if sample is not None:
            entry |= sample.facts
            if sample.members:
                entry |= {"key": f"{number:08d}", "shard": self._path.name}
                self._members[number] = dict(sample.members)
        self._entries[number] = entry

    def write(self) -> None:
        """The shard, if it has samples, then its part of the report, which says that it is done."""
        if self._members:
            with ShardWriter(self._path) as writer:
                for number in sorted(self._members):
                    writer.add(f"{number:08d}", self._members[number])
        with replacing(self._record) as temporary:
            lines = [json.dumps(self._entries[number]) + "\n" for number in sorted(self._entries)]
            temporary.write_text("".join(lines), encoding="utf-8")


def _worked(
    jobs: list[MeshJob], workers: int, timeout_s: float
) -> Iterator[JobEnd[MeshJob, MeshEnd]]:
    if workers > 0:
        workers = max(min(workers, len(jobs)), 1)
        yield from in_processes(jobs, prepare_in_worker, workers=workers, timeout_s=timeout_s)
        return
    for job in jobs:
        yield JobEnd(job=job, result=prepare_in_worker(job), failure="", seconds=0.0)


def _record_path(preparation: Preparation, shard: int) -> Path:
    return preparation.folder / f"shard-{shard:05d}.jsonl"


def _numbers(preparation: Preparation, files: list[MeshFile], shard: int) -> range:
    start = shard * preparation.per_shard
    return range(start, min(start + preparation.per_shard, len(files)))


def _jobs(
    preparation: Preparation,
    files: list[MeshFile],
    table: dict[str, dict[str, str]],
    shard: int,
) -> list[MeshJob]:
    return [
        MeshJob(
            source=preparation.source,
            name=files[number].name,
            number=number,
            options=preparation.options,
            captions=table.get(files[number].name, {}),
        )
        for number in _numbers(preparation, files, shard)
    ]


def _check_named(table: dict[str, dict[str, str]], files: list[MeshFile]) -> None:
    known = {file.name for file in files}
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(
            "captions",
            expected="names of meshes below the folder",
            got=f"{unknown[0]!r}" + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""),
        )


def _claim(
    preparation: Preparation, files: list[MeshFile], table: dict[str, dict[str, str]]
) -> None:
    """Write the set's description, or check that it is the one that is there."""
    record = {
        "format": FORMAT,
        "kind": "shards",
        "origin": ORIGIN,
        "count": len(files),
        "per_shard": preparation.per_shard,
        "settings": asdict(preparation.options),
        "captions": table,
        "sources": [[file.name, file.size] for file in files],
    }
    claim(preparation.folder, record)


def _gather_report(preparation: Preparation, count: int) -> list[dict[str, Any]]:
    """All parts that are there, of other ranks too, as one file."""
    paths = [_record_path(preparation, shard) for shard in range(count)]
    lines = [
        line for path in paths if path.exists() for line in path.read_text("utf-8").splitlines()
    ]
    with replacing(preparation.folder / REPORT) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return [json.loads(line) for line in lines]
