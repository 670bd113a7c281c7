"""One process, DDP or FSDP2 behind one small interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from seqtex_core.errors import MissingDependencyError, UsageError

from .config import Strategy
from .objective import FlowMatchingObjective


class Parallel(Protocol):
    """How processes share the work.

    Attributes:
        name: of the strategy.
        rank: number of this process.
        world_size: number of processes.
        device: of this process.
    """

    name: str
    rank: int
    world_size: int
    device: torch.device

    def wrap(self, objective: FlowMatchingObjective, *, all_used: bool) -> nn.Module:
        """The objective as the loop calls it; sharding happens in place.

        Args:
            objective: on the device.
            all_used: every step gives every trained parameter a gradient.
        """
        ...

    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Context of one forward and backward; gradients are exchanged in the last of a step."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must call it."""
        ...

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the processes; every process must call it."""
        ...

    def barrier(self) -> None:
        """Wait for all processes."""
        ...

    def close(self) -> None:
        """Leave the process group."""
        ...


class SingleProcess:
    """No sharing."""

    name = "single"
    rank = 0
    world_size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, objective: FlowMatchingObjective, *, all_used: bool) -> nn.Module:
        """The objective itself."""
        del all_used
        return objective

    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Nothing to do."""
        del module, last
        return nullcontext()

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def mean(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def barrier(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to leave."""


def make_parallel(strategy: Strategy, device: torch.device) -> Parallel:
    """The strategy of this process, its process group joined.

    Processes are counted from the environment that torchrun and accelerate set.

    Args:
        strategy: ``"auto"`` is DDP if there are several processes.
        device: of a single process; several processes on CUDA take one card each.

    Raises:
        UsageError: several processes for ``"single"``, or ``"ddp"`` or ``"fsdp"`` without a
            launcher.
        MissingDependencyError: accelerate is not installed and DDP is wanted.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if strategy == "single" and world_size > 1:
        raise UsageError(
            "[run] strategy", expected="ddp or fsdp for several processes", got="single"
        )
    if strategy in ("ddp", "fsdp") and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            f"[run] strategy {strategy}",
            expected="processes started by a launcher",
            got="a single process without WORLD_SIZE",
            remedy="Start with: torchrun --nproc-per-node N -m seqtex train CONFIG",
        )
    if strategy == "fsdp":
        from .parallel_fsdp import FullyShardedProcesses

        return FullyShardedProcesses(device)
    if strategy == "ddp" or world_size > 1:
        try:
            from .parallel_ddp import DataParallelProcesses
        except ImportError as error:
            raise MissingDependencyError(
                "accelerate",
                expected="the package that launches DDP",
                got=str(error),
                remedy="pip install accelerate",
            ) from error
        return DataParallelProcesses(device)
    return SingleProcess(device)
