"""One texture made by several processes that torchrun started: the first one speaks and writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.parallel import ParallelTrunk, Spread, parallel_mesh

from .launched import ParallelKind, launched_processes, launched_rank
from .models.model import SeqTexModel


@dataclass(frozen=True, kw_only=True)
class SharedRun:
    """This process among those that make one texture.

    Args:
        kind: how they share the transformer's work.
        device: of this process.
        rank: of this process; 0 speaks and writes.
        count: of processes.
    """

    kind: ParallelKind
    device: torch.device
    rank: int
    count: int

    def share_out(self, model: SeqTexModel) -> None:
        """Let the processes run the model's blocks together.

        Raises:
            UsageError: blocks that stream to the device cannot be entered branch by branch.
        """
        streams = model.memory is not None and model.memory.measures.stream_blocks
        if streams and self.kind == "branches":
            raise UsageError(
                "--parallel branches",
                expected="a model whose blocks stay on the device",
                got="blocks that stream to it",
                remedy="Use --parallel rows, or a larger --memory.",
            )
        branches = 2 if self.kind == "branches" else 1
        mesh = parallel_mesh(self.device.type, branches=branches, sequence=self.count // branches)
        spread: Spread = "ulysses" if self.kind == "heads" else "gather"
        model.transformer.trunk = ParallelTrunk(mesh, sequence=spread)

    def __str__(self) -> str:
        return f"{self.count} processes share the {self.kind}"


@contextmanager
def joined(kind: ParallelKind, device: str) -> Iterator[SharedRun]:
    """The processes as one group inside the block.

    Args:
        kind: how they share the work.
        device: as on the command line; on CUDA every process takes a card of its own.

    Raises:
        UsageError: a named card, which all processes would share.
        UnsupportedError: fewer cards than processes.
    """
    own = _own_device(device)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield SharedRun(kind=kind, device=own, rank=launched_rank(), count=launched_processes())
    finally:
        distributed.destroy_process_group()


def made_alike(model: SeqTexModel, layouts: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Make sure that all processes work on the same tokens, and give them the same values.

    Does nothing in a run that no others share.

    Args:
        model: of the run.
        layouts: tensors that decide which tokens there are; compared.
        values: tensors that the run starts from; those of the first process replace the others'.

    Raises:
        UnsupportedError: the processes prepared different layouts.
    """
    if not isinstance(model.transformer.trunk, ParallelTrunk):
        return
    digest = hashlib.sha256()
    for layout in layouts:
        digest.update(layout.detach().cpu().contiguous().numpy().tobytes())
    number = int.from_bytes(digest.digest()[:7])  # fits int64
    found = torch.tensor([number, -number], device=model.device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    if int(found[0]) != -int(found[1]):
        raise UnsupportedError(
            "processes",
            expected="the same UVs and maps in each",
            got="different ones",
            remedy="Give the mesh UVs first (`seqtex texture` without torchrun does), or use "
            "another --rasterizer.",
        )
    for value in values:
        whole = value.contiguous()
        distributed.broadcast(whole, src=0)
        value.copy_(whole)


def _own_device(name: str) -> torch.device:
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise UsageError(
            "--device",
            expected="cuda or cpu under torchrun: every process takes a card of its own",
            got=name,
        )
    if index >= torch.cuda.device_count():
        raise UnsupportedError(
            "--device cuda",
            expected="a card for each process on this machine",
            got=f"{torch.cuda.device_count()} for process {index}",
            remedy="Start fewer processes (--nproc-per-node).",
        )
    own = torch.device("cuda", index)
    torch.cuda.set_device(own)
    return own
