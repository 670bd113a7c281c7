"""The benchmark of the whole pipeline, and its count of the model's work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pipeline as benchmark
from benchmarks.ceilings import Ceilings
from benchmarks.denoise_work import copy_head_flop, denoise_work
from benchmarks.meshes import write_glb
from benchmarks.pipeline import Runs, _record, _rows, front_picture, prepared_objects
from benchmarks.runner import Session
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.run_options import RunOptions
from seqtex_core.attention import AttentionInputs
from seqtex_core.copy_head import CopyConfig, CopyHead, CopyRows


class Products:
    """Attention as two products, of one key, too, where einsum would multiply."""

    name = "products"

    def reason_unsupported(self, inputs: AttentionInputs, /) -> str | None:
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        weights = (torch.bmm(q, k.mT) * q.shape[-1] ** -0.5).softmax(-1)
        return torch.bmm(weights, v)[None].transpose(1, 2)


CPU = torch.device("cpu")
LIMITS = Ceilings(
    gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=1e-6, measured=()
)


@pytest.fixture
def session() -> Session:
    return Session(device=CPU, quick=True, seed=0, ceilings=LIMITS, say=lambda line: None)


@pytest.mark.parametrize(("asked", "known"), [(50, 70), (3, 2), (0, 4), (4, 0)])
def test_the_work_of_a_copy_head_is_what_is_counted(asked: int, known: int) -> None:
    config = CopyConfig(heads=3, content=4)
    head = CopyHead(8, 5, config)
    rows = [
        CopyRows(torch.randn(n, 8), torch.randn(n, 6), torch.randn(n, 5)) for n in (asked, known)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head(*rows)
    want = sum(copy_head_flop(asked, known, dim=8, channels=5, config=config).values())
    assert counter.get_total_flops() == want


def test_the_work_of_the_shipped_model_is_what_is_counted(tmp_path: Path, session: Session) -> None:
    """Foreground tokens, and those that the copy head finds and reads, of the very cache."""
    write_glb(tmp_path / "mesh.glb", 6)
    picture = front_picture(prepare_job(tmp_path / "mesh.glb"))
    job = prepare_job(tmp_path / "mesh.glb", {"front": picture})
    pipeline = SeqTexPipeline.from_pretrained(device="cpu")
    transformer = pipeline.model.transformer
    transformer.attend = Products()
    with prepared_objects(pipeline) as caches, FlopCounterMode(display=False) as counter:
        forward, counted = transformer.forward, []

        def step(*inputs: Any, **options: Any) -> dict[str, Tensor]:
            before = counter.get_total_flops()
            made = forward(*inputs, **options)
            counted.append(counter.get_total_flops() - before)
            return made

        transformer.forward = step
        runs, small = Runs(), RunOptions(texture_size=128)
        _record(job, lambda job: pipeline(job, options=small), tmp_path / "out.glb", runs)
    work = denoise_work(pipeline.model, caches[0], 1)
    assert counted == [work.flop]
    rows = {row.case: row for row in _rows("model", runs, work, 1, session)}
    assert {"Maps", "Encode", "Denoise", "Decode", "Weigh unseen"} <= set(rows)
    assert rows["Denoise"].work == work


@pytest.mark.slow
def test_every_stage_is_a_row_at_the_steps_of_the_model(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(SeqTexPipeline):
        def __call__(self, job: Any, **options: Any) -> Any:
            return super().__call__(job, options=RunOptions(texture_size=128), **options)

    monkeypatch.setattr(benchmark, "RINGS", 6)
    monkeypatch.setattr(benchmark, "REPEATS", {True: 1})
    monkeypatch.setattr(benchmark, "SeqTexPipeline", Small)
    rows = benchmark.run(session)
    assert not any("random" in (row.accuracy.reference if row.accuracy else "") for row in rows)
    found = {row.case: row for row in rows if row.implementation == "model"}
    assert {"Maps", "Encode", "Denoise", "Decode", "Weigh unseen", "whole run"} <= set(found)
    steps = SeqTexPipeline.from_pretrained(device="cpu").model.config.sampling.steps
    assert {row.parameters["steps"] for row in found.values()} == {steps}
    work = found["Denoise"].work
    assert work is not None
    assert str(work.flop_formula).startswith(f"{steps} x ")
