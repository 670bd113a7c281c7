"""A batch on one machine: items handed to workers, reports written, a summary at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from seqtex.data.atomic import atomic
from seqtex.data.worker_processes import JobEnd, in_processes
from seqtex.outputs import check_writable

from .batch_manifest import ManifestItem
from .batch_work import BatchJob, ItemReport, do_item, is_done, item_key, worker_threads
from .texture_request import TextureRequest, run_sizes


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
        self._waiting: dict[str, tuple[BatchJob, str | None]] = {}
        self._start = time.monotonic()
        self._interrupted = True

    def prepare(
        self,
        items: Sequence[ManifestItem],
        requests: Sequence[TextureRequest],
        *,
        shared: Sequence[str],
        workers: int,
        redo: bool,
    ) -> None:
        """Find out what is to be done.

        Args:
            items: this machine's.
            requests: one per item.
            shared: options of all items.
            workers: processes that share the machine.
            redo: also what is done.

        Raises:
            UsageError: a folder that cannot be written.
        """
        check_writable(self.out / "summary")
        threads = worker_threads(workers)
        sizes = run_sizes(requests)
        for item, request in zip(items, requests, strict=True):
            job = BatchJob(item=item, request=request, sizes=sizes, threads=threads)
            key = item_key(job, shared)
            if not redo and is_done(job, key, self.out):
                self.skipped.append(item.name)
            else:
                self._waiting[item.name] = job, key
        skipped = f", {len(self.skipped)} of {len(items)} done before" if self.skipped else ""
        _say(f"{len(self._waiting)} items to do{skipped}")

    def work(self, *, workers: int, timeout_s: float) -> None:
        """Do all items; prints a line for each, and the paths of results to stdout.

        Args:
            workers: processes; 0 works in this one, without a timeout.
            timeout_s: an item that takes longer has failed.
        """
        jobs = [job for job, _ in self._waiting.values()]
        ends = in_processes(jobs, do_item, workers=workers, timeout_s=timeout_s)
        with closing(ends if workers else _here(jobs)) as running:
            for number, end in enumerate(running, start=1):
                self._note(end, f"[{number}/{len(jobs)}]")
        self._interrupted = False

    def summarise(self) -> None:
        """Write ``summary.json`` (of this rank, if there are several) and print it."""
        left = len(self._waiting) - len(self.done) - len(self.failed)
        parts = [f"{len(self.done)} done", f"{len(self.skipped)} done before"]
        parts += [f"{len(self.failed)} failed"] + ([f"{left} not tried"] if left else [])
        _say(f"{', '.join(parts)} in {time.monotonic() - self._start:.0f} s")
        for report in sorted(self.failed, key=lambda r: r.line):
            _say(f"  line {report.line} ({report.name}): {report.reason}")
        suffix = f"-{self.rank}-of-{self.world_size}" if self.world_size > 1 else ""
        self.out.mkdir(parents=True, exist_ok=True)
        with atomic(self.out / f"summary{suffix}.json") as scratch:
            record = {
                "done": [report.name for report in self.done],
                "done_before": self.skipped,
                "failed": {report.name: report.reason for report in self.failed},
                "not_tried": left,
                "interrupted": self._interrupted,
                "seconds": round(time.monotonic() - self._start, 1),
            }
            scratch.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _note(self, end: JobEnd[BatchJob, ItemReport], label: str) -> None:
        job, key = self._waiting[end.job.item.name]
        report = end.result or _lost(job, end)
        report = report.with_key(key)
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


def _lost(job: BatchJob, end: JobEnd[BatchJob, ItemReport]) -> ItemReport:
    """The report of an item whose process ended."""
    return ItemReport(
        name=job.item.name,
        line=job.item.line,
        status="failed",
        key=None,
        out=str(job.out),
        seconds=end.seconds,
        reason=end.failure,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
