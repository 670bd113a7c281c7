"""Whole tensors from sharded ones and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gather(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; for a sharded one, every process must call this."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().to("cpu", copy=True)


@torch.no_grad()
def scatter_into(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into ``target``, or the own shard of it into a sharded one.

    Args:
        target: a plain or sharded tensor; changed in place.
        whole: equal on all processes.
    """
    if isinstance(target, DTensor):
        moved = whole.to(target.device, target.dtype)
        sharded = distribute_tensor(moved, target.device_mesh, target.placements)
        target.copy_(sharded)
    else:
        target.copy_(whole)
