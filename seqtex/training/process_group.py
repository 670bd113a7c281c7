"""What DDP and FSDP share: small exchanges over torch's process group."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import distributed


class ProcessGroup:
    """Exchanges of single numbers.

    Args:
        device: where the exchanged tensors live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = distributed.get_rank()
        self.world_size = distributed.get_world_size()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must call it."""
        value = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return bool(value)

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the processes; every process must call it."""
        total = torch.tensor(list(values), device=self.device, dtype=torch.float32)
        distributed.all_reduce(total)
        means: list[float] = (total / self.world_size).tolist()
        return means

    def barrier(self) -> None:
        """Wait for all processes."""
        distributed.barrier()

    def close(self) -> None:
        """Leave the process group."""
        distributed.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process: its own card on CUDA."""
    if device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(own)
    return own
