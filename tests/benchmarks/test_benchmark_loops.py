"""The benchmarks of whole loops, layers, geometry in attention, and shared training, made small."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import is_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import fsdp, fsdp_process, geo_attention, layer, loop
from benchmarks.ceilings import Ceilings
from benchmarks.models import ModelSize, build_model
from benchmarks.result import Row
from benchmarks.runner import Session
from benchmarks.train_sizes import TrainSize
from seqtex_core.attention import ATTENTION
from seqtex_core.transformer import SeqTexTransformer

CPU = torch.device("cpu")
LIMITS = Ceilings(
    gemm_flop_per_s={"float32": 1e9}, copy_bytes_per_s=1e9, launch_s=1e-6, measured=()
)
TINY = ModelSize(heads=1, layers=2, ffn_dim=64, view_tokens=2, uv_tokens=4, num_text=4, lora_rank=2)


@pytest.fixture
def session() -> Session:
    return Session(device=CPU, quick=True, seed=0, ceilings=LIMITS, say=lambda line: None)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.implementation: row for row in rows}


def test_the_loop_equals_fp64_and_says_what_needs_a_gpu(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "QUICK_SIZE", TINY)
    rows = by_name(loop.run(session))
    for name in (loop.EAGER, loop.RELEASED):
        assert rows[name].status == "ok", rows[name].reason
        assert rows[name].accuracy is not None
        assert rows[name].time is not None
    assert {rows[name].status for name in (loop.COMPILED, loop.GRAPH)} == {"unsupported"}
    one, all_steps = loop.step_work(TINY, itemsize=4).flop, rows[loop.EAGER].work
    assert all_steps is not None
    assert all_steps.flop == 4 * (one or 0)


class Fp64(TorchDispatchMode):
    """Notes the operations that give fp64 or complex128."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(
            x.dtype in (torch.float64, torch.complex128) for x in tree_leaves(out) if is_tensor(x)
        ):
            self.found.add(str(func))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("merged", [True, False])
def test_no_step_computes_in_fp64(dtype: torch.dtype, merged: bool) -> None:
    """With what stays over the steps kept, or made anew; the released bookkeeping rotates in it."""
    model = build_model(TINY, device=CPU, dtype=dtype, merged=merged, released=True)
    scene = loop.build_scene(TINY, model, device=CPU, dtype=dtype)
    with torch.no_grad(), Fp64() as seen:
        cache = scene.prepare(model, precompute=merged)
        model(scene.latents, scene.sigmas, cache)
        seen.found.clear()  # tables are made in fp64, and kernels are tried against it, once
        model(scene.latents, scene.sigmas, cache)
        assert seen.found == set()
        if not merged:
            loop.released_calls(model, scene)(scene.latents, scene.sigmas)
            assert seen.found


def test_far_from_the_released_latents_is_wrong() -> None:
    check = loop._near({"texture": torch.ones(4)})
    assert check({"texture": torch.ones(4) * 1.01})[0] is None
    for wrong in (1.2, torch.nan):
        assert "from the released" in str(check({"texture": torch.ones(4) * wrong})[0])


def test_many_compiled_blocks_are_one_graph() -> None:
    """Blocks share a graph: a loop of thirty does not compile thirty times, or give up."""
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    size = replace(TINY, layers=10)  # more than the compiler would keep variants of
    model = build_model(size, device=CPU, dtype=torch.float32, released=True)
    scene = loop.build_scene(size, model, device=CPU, dtype=torch.float32)
    cache, counter = scene.prepare(model), CompileCounter()
    compiled = loop._shallow(model)
    compiled.compile_blocks(backend=counter)
    once = loop.Loop(scene=scene, size=size, steps=2, seed=0)
    eager, traced = once(loop.calling(model, cache)), once(loop.calling(compiled, cache))
    assert counter.frame_count == 1
    for name in eager:
        torch.testing.assert_close(traced[name], eager[name], atol=1e-5, rtol=0)
    assert _storage(compiled) == _storage(model)


def _storage(model: SeqTexTransformer) -> list[int]:
    return [parameter.data_ptr() for parameter in model.parameters()]


def test_a_layer_is_compared_with_one_resolution_for_all(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer, "HALF", TINY)
    rows = [row for row in layer.run(session) if row.dtype == "float32"]
    found = by_name(rows)
    assert [row.status for row in rows] == ["ok"] * 4
    everywhere, ours = found[layer.EVERYWHERE].work, found[layer.OURS].work
    assert everywhere is not None
    assert ours is not None
    assert (everywhere.flop or 0) > 2 * (ours.flop or 0)
    assert found[layer.EVERYWHERE].accuracy is None
    assert found[layer.VIEWS_ONLY].accuracy is not None


def test_geometry_is_told_apart_from_attention(session: Session) -> None:
    rows = geo_attention.run(session)
    assert [row.status for row in rows] == ["ok"] * 14, [row.reason for row in rows]
    for row in rows:
        wanted = geo_attention.PAIRS.get(row.implementation)
        assert row.metrics.get("over_what") == wanted
        assert (row.metrics.get("over") is None) == (wanted is None)
    bare = [row for row in rows if row.implementation == geo_attention.BARE]
    assert [row.notes for row in bare] == [("that of sdpa",)] * 2


def test_the_bare_kernel_is_the_one_that_the_library_runs() -> None:
    q, k, v = (torch.randn(1, 5, 2, 8) for _ in range(3))
    for name in ("sdpa", "reference"):
        attend = ATTENTION.get(name)
        out = geo_attention.bare_kernel(attend, q, k, v)()
        if name == "sdpa":
            out = out.transpose(1, 2)
        torch.testing.assert_close(out, attend(q, k, v))


def test_training_with_shared_parameters_agrees_with_training_without(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process stands for two, as starting them takes long; the benchmark compares two."""
    size = TrainSize(
        heads=2, head_dim=16, layers=1, view_tokens=2, uv_tokens=4, num_text=4, batch=2, lora_rank=2
    )

    def here(job: dict[str, Any], folder: Path, count: int) -> None:
        (folder / "job.json").write_text(json.dumps(job))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        where = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": count, "MASTER_PORT": port}
        for name, value in (where | {"MASTER_ADDR": "127.0.0.1"}).items():
            monkeypatch.setenv(name, str(value))
        fsdp_process.main(folder)

    monkeypatch.setattr(fsdp, "start_processes", here)
    ways = ((fsdp.ONE, 1, False), (fsdp.SHARDED, 1, True))
    one, shared = fsdp.beside_one(list(fsdp.process_rows(size, session, ways=ways)))
    assert (one.status, shared.status) == ("ok", "ok"), (one.reason, shared.reason)
    assert (one.metrics["dtensor_percent"], shared.metrics["dtensor_percent"]) == (0.0, 100.0)
    assert shared.metrics["speedup"]
    for row in (one, shared):
        assert row.accuracy is not None
        assert row.accuracy.reference.startswith("gradients of the whole batch")


def test_a_process_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsdp, "PROCESS", "benchmarks.nothing")
    assert "benchmarks.nothing" in str(fsdp.start_processes({}, tmp_path, 2))


@pytest.mark.gpu
def test_a_cuda_graph_and_compiled_blocks_equal_the_eager_loop() -> None:
    """A few roundings in bf16: other kernels for the same sums, over two layers and two steps."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    model = build_model(TINY, device=device, dtype=dtype, released=True)
    scene = loop.build_scene(TINY, model, device=device, dtype=dtype)
    cache, compiled = scene.prepare(model), loop._shallow(model)
    compiled.compile_blocks()
    once = loop.Loop(scene=scene, size=TINY, steps=2, seed=0)
    eager = once(loop.calling(model, cache))
    graphed = once(loop.GraphedModel(model, cache))
    traced = once(loop.calling(compiled, cache))
    for name, x in eager.items():
        assert float((graphed[name] - x).norm() / x.norm()) < 2**-8
        assert float((traced[name] - x).norm() / x.norm()) < 2**-6
