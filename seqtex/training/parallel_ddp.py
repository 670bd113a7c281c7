"""Data parallel training through accelerate."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from .objective import FlowMatchingObjective
from .process_group import ProcessGroup


class DataParallelProcesses(ProcessGroup):
    """Every process holds the model; gradients are averaged. See ``Parallel``.

    Args:
        device: ``cpu``, or ``cuda`` for one card per process.
    """

    name = "ddp"

    def __init__(self, device: torch.device) -> None:
        self._accelerator = Accelerator(cpu=device.type == "cpu")
        super().__init__(self._accelerator.device)

    def wrap(self, objective: FlowMatchingObjective, *, all_used: bool) -> nn.Module:
        """The objective in ``DistributedDataParallel``."""
        handler = DistributedDataParallelKwargs(find_unused_parameters=not all_used)
        self._accelerator.ddp_handler = handler
        wrapped: nn.Module = self._accelerator.prepare_model(objective)
        return wrapped

    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged in the last backward of a step only."""
        if last:
            return nullcontext()
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context
