"""Whether torchrun started this process beside others, and how they share the work; no torch."""

from __future__ import annotations

import os
from typing import Literal, get_args

from seqtex_core.errors import UsageError

ParallelKind = Literal["rows", "heads", "branches"]
"""How processes share a texture: the rows of both branches, keys and values collected; the same
with heads exchanged for rows; or each branch by half of the processes."""


def launched_processes() -> int:
    """Processes that torchrun started together; 1 if it did not."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def launched_rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", "0")) if launched_processes() > 1 else 0


def check_parallel(kind: str | None, *, method: str) -> None:
    """Refuse a way of sharing that there is not, or one without processes to share among.

    Args:
        kind: as on the command line; ``None`` if not given.
        method: of the run.

    Raises:
        UsageError: an unknown word, no torchrun, an odd number of processes for two branches, or
            several processes for work that they cannot share.
    """
    count = launched_processes()
    if kind is not None and kind not in get_args(ParallelKind):
        raise UsageError(
            "--parallel", expected="one of " + ", ".join(get_args(ParallelKind)), got=repr(kind)
        )
    if kind is not None and count == 1:
        raise UsageError(
            "--parallel",
            expected="several processes",
            got="one",
            remedy="Start them with `torchrun --nproc-per-node N -m seqtex texture ...`.",
        )
    if kind == "branches" and count % 2:
        raise UsageError(
            "--parallel branches", expected="an even number of processes", got=str(count)
        )
    if count > 1 and method != "model":
        raise UsageError(
            "torchrun",
            expected="--method model, whose work processes can share",
            got=f"--method {method} in {count} processes",
            remedy="Start it without torchrun; `seqtex batch --workers` shares many meshes out.",
        )
