"""One process of a distributed run: ``python training_process.py STRATEGY FOLDER`` under RANK."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import make_run, tiny_config, with_copies

from seqtex.training import trainer
from seqtex.training.parallel import make_parallel
from seqtex_core import copy_head


def main(strategies: list[str], folder: Path) -> None:
    torch.set_num_threads(1)
    copy_head._CHUNK = 16  # rows made again in the backward pass, where weights may be sharded anew
    for strategy in strategies:
        name, _, copies = strategy.partition("-")
        config = tiny_config(8, strategy=name)
        config = replace(config, output=replace(config.output, checkpoint_every=5, keep=9))
        config = with_copies(config) if copies else config
        parallel = make_parallel(config.run.strategy, torch.device("cpu"))
        run = make_run(config, folder / strategy, parallel=parallel)
        sharded = [isinstance(p, DTensor) for p in run.transformer.parameters()]
        halves = [
            p.to_local().numel() < p.numel()
            for p in run.transformer.parameters()
            if isinstance(p, DTensor) and p.shape[0] % 2 == 0
        ]
        result = trainer.train(run, resume=False, say=lambda text: None)
        facts = {
            "strategy": parallel.name,
            "sharded": sum(sharded),
            "parameters": len(sharded),
            "all_halved": bool(halves) and all(halves),
            "finished": result.finished,
        }
        if parallel.rank == 0:
            (folder / f"{strategy}.json").write_text(json.dumps(facts))
        # a sharded state resumes too: the last three steps once more, from step 5
        if strategy == "fsdp":
            resumed = make_run(config, folder / "resumed", parallel=parallel)
            if parallel.rank == 0:
                source = folder / strategy / "checkpoints" / "step-000000005"
                target = folder / "resumed" / "checkpoints" / source.name
                target.parent.mkdir(parents=True)
                source.rename(target)
            parallel.barrier()
            trainer.train(resumed, resume=True, say=lambda text: None)
    parallel.close()


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]))
