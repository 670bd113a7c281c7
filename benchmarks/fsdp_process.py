"""One process of the benchmark ``fsdp``: ``python -m benchmarks.fsdp_process FOLDER`` under RANK.

It reads ``job.json`` there and writes ``RANK.json``; the first one the whole gradients too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from seqtex.training.parallel import SingleProcess
from seqtex.training.parallel_fsdp import FullyShardedProcesses
from seqtex.training.sharding import gather
from seqtex_core.transformer import SeqTexTransformer

from .observe import peak_of
from .train import TrainingStep, own_bytes, training_model
from .train_sizes import TrainSize, family_entry


class StepObjective(nn.Module):
    """The loss of a step as a module, which is what FSDP wraps.

    Args:
        model: what trains.
    """

    def __init__(self, model: SeqTexTransformer) -> None:
        super().__init__()
        self.transformer = model
        self.step: TrainingStep | None = None

    def forward(self) -> Tensor:
        """The loss of :attr:`step`."""
        assert self.step is not None
        return self.step.loss()


def main(folder: Path) -> None:
    """Do the job of the folder."""
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    device = torch.device(job["device"])
    parallel = FullyShardedProcesses(device) if job["sharded"] else SingleProcess(device)
    size = TrainSize(**job["size"])
    entry = family_entry(job["family"], size)
    assert entry is not None
    objective = StepObjective(training_model(entry, size, device=parallel.device, seed=job["seed"]))
    if isinstance(parallel, FullyShardedProcesses):
        parallel.wrap(objective, all_used=True)  # type: ignore[arg-type]  # the loss is another
    share = size.batch // parallel.world_size
    mine = slice(parallel.rank * share, (parallel.rank + 1) * share)
    step = TrainingStep(objective.transformer, size, seed=job["seed"], samples=mine)
    objective.step, step.objective = step, objective
    gradients = {name: gather(x) for name, x in step(checkpointing=job["checkpointing"]).items()}
    record = measured(step, parallel, job)
    (folder / f"{parallel.rank}.json").write_text(json.dumps(record), encoding="utf-8")
    if parallel.rank == 0:
        save_file(
            {n: x.contiguous() for n, x in gradients.items()}, folder / "gradients.safetensors"
        )
    parallel.close()


def measured(
    step: TrainingStep, parallel: SingleProcess | FullyShardedProcesses, job: dict[str, Any]
) -> dict[str, Any]:
    """Times of steps that begin together, and what this process holds.

    Args:
        step: that has run once.
        parallel: the processes.
        job: has the number of steps, and whether blocks are computed again.
    """
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(job["steps"]):
        parallel.barrier()
        start = time.perf_counter(), time.process_time()
        step(checkpointing=job["checkpointing"])
        if parallel.device.type == "cuda":
            torch.cuda.synchronize(parallel.device)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    parallel.barrier()
    peak = peak_of(lambda: step(checkpointing=job["checkpointing"]), parallel.device)
    held = list(step.model.parameters())
    return {
        "wall_s": wall,
        "cpu_s": sorted(cpu)[len(cpu) // 2],
        "peak_bytes": peak.peak_bytes,
        "weights_bytes": sum(own_bytes(p) for p in held),
        "gradients_bytes": sum(own_bytes(p) for p in step.trained.values()),
        "moments_bytes": step.moments,
        "parameters": len(held),
        "dtensors": sum(isinstance(p, DTensor) for p in held),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
