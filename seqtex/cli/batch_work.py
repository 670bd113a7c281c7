"""One item of a batch: whether it is done already, doing it in a worker, its report."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqtex.data.atomic import atomic
from seqtex.manifest import file_sha256
from seqtex.outputs import manifest_path
from seqtex.references import parse_references

from .batch_manifest import ManifestItem
from .exits import as_known_error
from .progress import StageReporter
from .texture_request import TextureRequest
from .texture_run import load_pipeline, texture_file

if TYPE_CHECKING:
    from seqtex.models.run_sizes import RunSizes
    from seqtex.pipeline import SeqTexPipeline

REPORTS = "reports"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """An item ready to be done.

    Args:
        item: the line of the manifest.
        request: what it asks for.
        sizes: of all items, for the plan of the model's memory.
        threads: of torch, in this worker; 0 leaves torch's choice.
    """

    item: ManifestItem
    request: TextureRequest
    sizes: RunSizes
    threads: int = 0

    @property
    def out(self) -> Path:
        """Where the result goes."""
        assert self.request.out is not None, "the parser names it"
        return self.request.out


@dataclass(frozen=True, kw_only=True)
class ItemReport:
    """How an item ended.

    Args:
        name: of the item.
        line: of the manifest.
        status: what happened.
        key: of the request and its input files; an item whose key is the same need not be redone.
        out: the result.
        seconds: it took.
        reason: why it failed, or "".
        log: what ``seqtex texture`` would have said.
    """

    name: str
    line: int
    status: Literal["done", "failed"]
    key: str | None
    out: str
    seconds: float
    reason: str = ""
    log: Sequence[str] = ()

    def with_key(self, key: str | None) -> ItemReport:
        """The same, of a request with this key."""
        return replace(self, key=key)

    def write(self, folder: Path) -> None:
        """Write ``reports/NAME.json`` below ``folder``, all of it or nothing."""
        path = report_path(folder, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as scratch:
            record = {"schema": SCHEMA, **asdict(self), "seconds": round(self.seconds, 3)}
            scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def report_path(folder: Path, name: str) -> Path:
    """Where an item's report is."""
    return folder / REPORTS / f"{name}.json"


def item_key(job: BatchJob, shared: Sequence[str]) -> str | None:
    """Hash of what an item asks for and of the files it reads; ``None`` if one is missing.

    Args:
        job: the item.
        shared: options of all items.
    """
    request = job.request
    given = parse_references(request.image, request.refs, ref_view=request.ref_view)
    files = [request.mesh, *given.values()]
    try:
        inputs = [file_sha256(file) for file in files]
    except OSError:
        return None
    asked = {"options": dict(job.item.options), "shared": list(shared), "inputs": inputs}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def is_done(job: BatchJob, key: str | None, folder: Path) -> bool:
    """Whether an earlier run made this very result, and it is still there."""
    try:
        record: Mapping[str, Any] = json.loads(report_path(folder, job.item.name).read_text())
    except (OSError, ValueError):
        return False
    same = record.get("schema") == SCHEMA and record.get("key") == key
    there = job.out.is_file() and manifest_path(job.out).is_file()
    return key is not None and same and record.get("status") == "done" and there


def do_item(job: BatchJob) -> ItemReport:
    """Do an item in this process; whatever goes wrong with it is in the report."""
    from rich.console import Console

    start = time.monotonic()
    log = io.StringIO()
    report = StageReporter(Console(file=log, highlight=False, soft_wrap=True, width=200))
    reason = ""
    try:
        _limit_threads(job.threads)
        pipeline = None if job.request.method == "project" else _pipeline(job)
        texture_file(job.request, pipeline=pipeline, report=report)
    except Exception as error:
        known = as_known_error(error)
        reason = str(known or f"{type(error).__name__}: {error} (a defect of seqtex, see the log)")
        if known is None:
            log.write(traceback.format_exc())
    return ItemReport(
        name=job.item.name,
        line=job.item.line,
        status="failed" if reason else "done",
        key=None,
        out=str(job.out),
        seconds=time.monotonic() - start,
        reason=reason,
        log=log.getvalue().splitlines(),
    )


_loaded: dict[tuple[object, ...], SeqTexPipeline] = {}


def _pipeline(job: BatchJob) -> SeqTexPipeline:
    """The model, loaded with the first item of a process."""
    request = job.request
    place = request.device, request.dtype, request.memory, request.fp8
    what = (request.model, request.sources, *place, job.sizes)
    if what not in _loaded:
        _loaded.clear()
        with StageReporter() as report:
            _loaded[what] = load_pipeline(request, job.sizes, report)
    return _loaded[what]


def _limit_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def worker_threads(workers: int) -> int:
    """Torch threads of each of several workers on this machine."""
    return max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0
