"""A batch on one machine: items handed to workers, reports written, a summary at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from seqtex.data.worker_processes import JobEnd, in_processes
from seqtex.outputs import check_writable
from seqtex_core.whole_files import replacing

from .batch_manifest import ManifestItem
from .batch_reports import REPORTS, ItemReport, why_again
from .batch_work import BatchJob, do_item, worker_threads
from .texture_request import TextureRequest, run_sizes

_SHOWN = 20


class BatchRun:
    """This machine's share of a manifest.

    Args:
        out: folder of results, reports and summaries.
        rank: number of this machine.
        world_size: machines that share the manifest.
    """

    def __init__(self, *, out: Path, rank: int = 0, world_size: int = 1) -> None:
        self.out = out
        self.rank = rank
        self.world_size = world_size
        self.skipped: list[str] = []
        self.done: list[ItemReport] = []
        self.failed: list[ItemReport] = []
        self._jobs: list[BatchJob] = []
        self._start = time.monotonic()
        self._interrupted = True

    def prepare(
        self,
        items: Sequence[ManifestItem],
        requests: Sequence[TextureRequest],
        *,
        workers: int,
        redo: bool,
    ) -> None:
        """Find out what is to be done.

        Args:
            items: this machine's.
            requests: one per item.
            workers: processes that share the machine.
            redo: also what is done.

        Raises:
            UsageError: a folder that cannot be written.
        """
        check_writable(self.out / REPORTS / "report")
        threads = worker_threads(workers)
        sizes = run_sizes(requests)
        again: list[str] = []
        reasons = [""] * len(items) if redo else self._reasons(items, requests)
        for item, request, why in zip(items, requests, reasons, strict=True):
            if why is None:
                self.skipped.append(item.name)
                continue
            job = BatchJob(
                item=item, request=request, folder=self.out, sizes=sizes, threads=threads
            )
            self._jobs.append(job)
            again += [f"line {item.line} ({item.name}): {why}"] if why else []
        skipped = f", {len(self.skipped)} of {len(items)} done before" if self.skipped else ""
        _say(f"{len(self._jobs)} items to do{skipped}")
        if again:
            _say(f"{len(again)} of them again:")
            _say_some(again)

    def _reasons(
        self, items: Sequence[ManifestItem], requests: Sequence[TextureRequest]
    ) -> list[str | None]:
        """Why each item must be done; hashing releases the interpreter, so in threads."""
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            names = [item.name for item in items]
            return list(pool.map(partial(why_again, folder=self.out), requests, names))

    def work(self, *, workers: int, timeout_s: float) -> None:
        """Do all items; prints a line for each, and the paths of results to stdout.

        Args:
            workers: processes; 0 works in this one, without a timeout.
            timeout_s: an item that takes longer has failed.
        """
        jobs = self._jobs
        ends = in_processes(jobs, do_item, workers=workers, timeout_s=timeout_s)
        with closing(ends if workers else _here(jobs)) as running:
            for number, end in enumerate(running, start=1):
                self._note(end, f"[{number}/{len(jobs)}]")
        self._interrupted = False

    def summarise(self) -> None:
        """Write ``summary.json`` (of this rank, if there are several) and print it."""
        left = len(self._jobs) - len(self.done) - len(self.failed)
        parts = [f"{len(self.done)} done", f"{len(self.skipped)} done before"]
        parts += [f"{len(self.failed)} failed"] + ([f"{left} not tried"] if left else [])
        _say(f"{', '.join(parts)} in {time.monotonic() - self._start:.0f} s")
        self.failed.sort(key=lambda report: report.line)
        suffix = f"-{self.rank}-of-{self.world_size}" if self.world_size > 1 else ""
        path = self.out / f"summary{suffix}.json"
        _say_some([f"line {r.line} ({r.name}): {r.reason}" for r in self.failed], path)
        self.out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            record = {
                "items": len(self._jobs) + len(self.skipped),
                "not_tried": left,
                "interrupted": self._interrupted,
                "seconds": round(time.monotonic() - self._start, 1),
                "failed": {report.name: report.reason for report in self.failed},
                "done": [report.name for report in self.done],
                "done_before": self.skipped,
            }
            scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _note(self, end: JobEnd[BatchJob, ItemReport], label: str) -> None:
        report = end.result or _lost(end)
        report.write(self.out)
        if report.status == "done":
            self.done.append(report)
            _say(f"{label} {report.name}: done in {report.seconds:.1f} s")
            print(report.out, flush=True)
        else:
            self.failed.append(report)
            _say(f"{label} {report.name}: failed: {report.reason}")


def _here(jobs: Iterable[BatchJob]) -> Generator[JobEnd[BatchJob, ItemReport], None, None]:
    """The items one after the other, in this process."""
    for job in jobs:
        report = do_item(job)
        yield JobEnd(job=job, result=report, failure="", seconds=report.seconds)


def _lost(end: JobEnd[BatchJob, ItemReport]) -> ItemReport:
    """The report of an item whose process ended."""
    return ItemReport(
        name=end.job.item.name,
        line=end.job.item.line,
        status="failed",
        key=None,
        out=str(end.job.out),
        seconds=end.seconds,
        reason=end.failure,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say_some(lines: Sequence[str], more_in: Path | None = None) -> None:
    """The first lines of a list, however long it is."""
    for line in lines[:_SHOWN]:
        _say(f"  {line}")
    if len(lines) > _SHOWN:
        where = "" if more_in is None else f": all are in {more_in}"
        _say(f"  and {len(lines) - _SHOWN} more{where}")
