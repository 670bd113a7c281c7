"""Fully sharded training through torch's ``fully_shard`` (FSDP2)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from .objective import FlowMatchingObjective
from .process_group import ProcessGroup, local_device


class FullyShardedProcesses(ProcessGroup):
    """Every process holds a share of each parameter; the unit is the MUV block. See ``Parallel``.

    Args:
        device: ``cpu``, or ``cuda`` for one card per process.
    """

    name = "fsdp"

    def __init__(self, device: torch.device) -> None:
        own = local_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
        super().__init__(own)

    def wrap(self, objective: FlowMatchingObjective, *, all_used: bool) -> nn.Module:
        """The objective with sharded blocks, and the rest sharded as one more unit."""
        del all_used
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        for block in objective.transformer.muv_blocks():
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
        return objective

    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged in every backward, so that they stay sharded."""
        del module, last
        return nullcontext()
