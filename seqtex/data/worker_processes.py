"""Jobs in processes of their own: one that crashes, hangs or runs out of memory costs itself."""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Generic, TypeVar

from seqtex_core.errors import ContractError

J = TypeVar("J")
R = TypeVar("R")
_GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class JobEnd(Generic[J, R]):
    """How a job ended.

    Args:
        job: what was asked for.
        result: what ``work`` returned; ``None`` if its process ended or was ended.
        failure: why there is no result, or "".
        seconds: since the job was handed out.
    """

    job: J
    result: R | None
    failure: str
    seconds: float


def in_processes(
    jobs: Iterable[J], work: Callable[[J], R], *, workers: int, timeout_s: float
) -> Generator[JobEnd[J, R], None, None]:
    """Do jobs in ``workers`` processes; ends come in any order, but jobs start in theirs.

    Args:
        jobs: small values that can be sent to a process.
        work: a function of a module, which must not raise.
        workers: number of processes.
        timeout_s: a job that takes longer is ended with its process.
    """
    waiting = iter(jobs)
    team = [_Worker(work) for _ in range(workers)]
    try:
        for worker in team:
            worker.take(waiting)
        while busy := [worker for worker in team if worker.is_busy]:
            ready = wait([worker.connection for worker in busy], timeout=_POLL_SECONDS)
            for worker in busy:
                end = worker.finished(worker.connection in ready, timeout_s)
                if end is not None:
                    worker.take(waiting)
                    yield end
    finally:
        for worker in team:
            worker.stop()


def results_in_processes(
    jobs: Iterable[J],
    work: Callable[[J], R],
    *,
    workers: int,
    timeout_s: float = math.inf,
    name: Callable[[J], str] = str,
) -> Iterator[tuple[J, R]]:
    """Jobs with their results, in any order, where every one is needed.

    Args:
        jobs: see :func:`in_processes`, like the next three.
        work: what it raises is raised here, and ends the other jobs.
        workers: number of processes.
        timeout_s: seconds for a job.
        name: of a job, for the message of one whose process ended.

    Raises:
        ContractError: a process ended before its job did.
    """
    ends = in_processes(jobs, _Told(work), workers=workers, timeout_s=timeout_s)
    with closing(ends) as running:
        for end in running:
            if end.result is None:
                raise ContractError(
                    name(end.job),
                    expected="a process that ends its work",
                    got=end.failure,
                    remedy="Use fewer --workers if memory ran out.",
                )
            if end.result.error is not None:
                raise end.result.error
            yield end.job, end.result.value


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a job returned, or what it raised."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class _Told(Generic[J, R]):
    """Work that raises nothing."""

    work: Callable[[J], R]

    def __call__(self, job: J) -> _Outcome:
        try:
            return _Outcome(value=self.work(job))
        except Exception as error:
            return _Outcome(error=error)


class _Worker(Generic[J, R]):
    """One process, started anew when it has ended."""

    def __init__(self, work: Callable[[J], R]) -> None:
        self._work = work
        self._process: Any = None
        self._job: J | None = None
        self._started = 0.0
        self.connection: Connection

    @property
    def is_busy(self) -> bool:
        return self._job is not None

    def take(self, jobs: Iterator[J]) -> None:
        """Start the next job, if there is one."""
        self._job = next(jobs, None)
        if self._job is None:
            return
        if self._process is None:
            self._start()
        self._started = time.monotonic()
        try:
            self.connection.send(self._job)
        except OSError:  # it died between two jobs
            self.stop()
            self._start()
            self.connection.send(self._job)

    def finished(self, is_ready: bool, timeout_s: float) -> JobEnd[J, R] | None:
        """The end of the job, or ``None`` while it runs."""
        assert self._job is not None, "only busy workers are asked"
        seconds = time.monotonic() - self._started
        result: R | None = None
        failure = ""
        if is_ready:
            try:
                result = self.connection.recv()
            except (EOFError, OSError):
                self._process.join(_GRACE_SECONDS)
                failure = f"the process ended: {_ending(self._process.exitcode)}"
                self.stop()
        elif seconds > timeout_s:
            failure = f"not done within {timeout_s:g} s"
            self.stop()
        else:
            return None
        job, self._job = self._job, None
        return JobEnd(job=job, result=result, failure=failure, seconds=seconds)

    def stop(self) -> None:
        """End the process; children of its own go with it where it can still react."""
        if self._process is None:
            return
        self.connection.close()
        if not self.is_busy:  # it leaves by itself
            self._process.join(_GRACE_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_GRACE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        self._process.start()
        theirs.close()


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """The process: jobs in, results out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return
        result = work(job)
        try:
            connection.send(result)
        except ConnectionError:  # it was killed meanwhile, and nobody is left to be told
            return


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{name} (out of memory?)" if name == "SIGKILL" else name
    return f"exit code {code}"
