"""One process at a time writes into the folder of a run."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqtex_core.errors import UsageError

LOCK = "running.lock"


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
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                "--out",
                expected="a folder in which no other run works",
                got=f"{folder}, in which {file.read() or 'one'} does",
                remedy="End that run first, or name another folder.",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} of {socket.gethostname()}")
        file.flush()
        yield
