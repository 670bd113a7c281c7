"""One item of a batch, done in a worker."""

from __future__ import annotations

import io
import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .batch_manifest import ManifestItem
from .batch_reports import FileStamp, ItemReport, request_key, stamps
from .exits import as_known_error
from .progress import StageReporter
from .texture_request import TextureRequest
from .texture_run import requested_model, texture_file

if TYPE_CHECKING:
    from seqtex.models.model import SeqTexModel
    from seqtex.models.run_sizes import RunSizes


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """An item ready to be done.

    Args:
        item: the line of the manifest.
        request: what it asks for.
        folder: of the results of all items.
        sizes: of all items, for the plan of the model's memory.
        threads: of torch, in this worker; 0 leaves torch's choice.
    """

    item: ManifestItem
    request: TextureRequest
    folder: Path
    sizes: RunSizes
    threads: int = 0

    @property
    def out(self) -> Path:
        """Where the result goes."""
        assert self.request.out is not None, "the parser names it"
        return self.request.out


def do_item(job: BatchJob) -> ItemReport:
    """Do an item in this process; whatever goes wrong with it is in the report.

    The report is written here, so that an item that was done counts even if the process that handed
    it out is gone by then. That one writes it again, and says so where it cannot.
    """
    from rich.console import Console

    start = time.monotonic()
    log = io.StringIO()
    report = StageReporter(Console(file=log, highlight=False, soft_wrap=True, width=200))
    reason, key = "", None
    files: dict[str, FileStamp] = {}
    beside: dict[str, FileStamp] = {}
    try:
        _limit_threads(job.threads)
        key = request_key(job.request)  # before the files are read: one that changes now is noticed
        model = None if job.request.method == "project" else _model(job)
        saved = texture_file(job.request, model=model, report=report)
        assert saved is not None, "only processes that share a texture get nothing"
        files = stamps(saved.files, job.folder)
        beside = stamps(saved.beside, job.request.mesh.parent)
    except Exception as error:
        known = as_known_error(error)
        reason = str(known or f"{type(error).__name__}: {error} (a defect of seqtex, see the log)")
        if known is None:
            log.write(traceback.format_exc())
    ended = ItemReport(
        name=job.item.name,
        line=job.item.line,
        status="failed" if reason else "done",
        key=key,
        out=str(job.out),
        seconds=time.monotonic() - start,
        reason=reason,
        files=files,
        beside=beside,
        log=log.getvalue().splitlines(),
    )
    with suppress(OSError):
        ended.write(job.folder)
    return ended


_loaded: dict[tuple[object, ...], SeqTexModel] = {}


def _model(job: BatchJob) -> SeqTexModel:
    """The model, loaded with the first item of a process."""
    request = job.request
    place = request.device, request.dtype, request.memory, request.fp8
    what = (request.model, request.sources, *place, job.sizes)
    if what not in _loaded:
        _loaded.clear()
        with StageReporter() as report:
            _loaded[what] = requested_model(request, job.sizes, report)
    return _loaded[what]


def _limit_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def worker_threads(workers: int) -> int:
    """Torch threads of each of several workers on this machine."""
    return max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0
