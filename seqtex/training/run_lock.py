"""One process at a time writes into the folder of a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from seqtex_core.errors import UsageError

LOCK = "running.lock"
HOLDER = "running.txt"
"""Who holds the lock: a text, for people."""


@contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder inside the block; the system lets go of it at any end.

    Two runs in one folder, as when a job is queued again before the old one has ended, would mix
    their metrics and remove each other's checkpoints.

    Args:
        folder: of the run; it exists.

    Raises:
        UsageError: another run writes there; names its process.
    """
    holder = folder / HOLDER
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "one"
        raise UsageError(
            "--out",
            expected="a folder in which no other run works",
            got=f"{folder}, in which {who or 'one'} does",
            remedy="End that run first, or name another folder.",
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} of {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
