"""A step as a CUDA graph: equal to the model, with stand-ins for graphs where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from copying_models import SIZES as COPIED_SIZES
from copying_models import dense, keeps, known, make, scene
from fake_graphs import FakeGraph, pretend_graphs
from torch import Tensor

from seqtex_backbones.registry import load_backbone
from seqtex_core.branch_data import StepCache
from seqtex_core.copy_head import CopyConfig
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.graphed import GraphedModel, reason_graph_unsupported
from seqtex_core.inference import prepare_for_inference
from seqtex_core.packed_layout import AnyLayout, PackedLayout
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.trunk import run_blocks

SIZES = {"views": (2, 4, 6), "texture": (1, 8, 8)}
STREAMS: dict[str, Any] = {"views": "mv", "texture": "uv"}
LEVELS = (0.9, 0.5, 0.2)
Groups = dict[str, Tensor]


def plain_model() -> SeqTexTransformer:
    config = DecoupledConfig(mv_train="full")
    model = SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def plain_cache(model: SeqTexTransformer) -> StepCache:
    return model.prepare(model.layout(SIZES, STREAMS))


def inputs(level: float, *, device: str = "cpu", batch: int = 1) -> tuple[Groups, Groups]:
    draw = torch.Generator().manual_seed(round(100 * level))
    latents = {n: torch.randn(batch, 16, *s, generator=draw) for n, s in SIZES.items()}
    sigmas = {n: torch.full((batch, s[0]), level) for n, s in SIZES.items()}
    return {n: x.to(device) for n, x in latents.items()}, {
        n: x.to(device) for n, x in sigmas.items()
    }


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    return pretend_graphs(monkeypatch)


@pytest.fixture
def model() -> SeqTexTransformer:
    return plain_model()


@torch.no_grad()
def test_the_stand_in_replays_tensors_and_forgets_the_host(graphs: list[FakeGraph]) -> None:
    x = torch.ones(3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = x.view(1, 3).expand(2, 3)
        y = (rows + 1).mul_(2)
        z = y * float(x[0])
    x.fill_(2)
    graph.replay()
    assert torch.equal(y, torch.full((2, 3), 6.0))
    assert torch.equal(z, torch.full((2, 3), 6.0))  # not 12: the host's number is of the capture


@torch.no_grad()
def test_replays_equal_the_model_at_every_level(
    model: SeqTexTransformer, graphs: list[FakeGraph]
) -> None:
    cache = plain_cache(model)
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    predict = GraphedModel(model, cache)
    assert not calls, "captured in the first call"
    made = [predict(*inputs(level)) for level in LEVELS]
    handle.remove()
    assert len(calls) == 4  # three to warm up, one to capture; no more for the other levels
    assert [graph.replays for graph in graphs] == [len(LEVELS)]
    for level, got in zip(LEVELS, made, strict=True):  # answers stay what they were
        want = model(*inputs(level), cache)
        assert list(got) == list(want)
        assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_a_copy_head_is_part_of_the_graph(packed: bool, graphs: list[FakeGraph]) -> None:
    model = make(CopyConfig(heads=3)).eval().requires_grad_(False)
    start, _, geometry = scene(2)
    layout: AnyLayout = PackedLayout.of(dense(model), keeps(2)) if packed else dense(model)
    cache = model.prepare(layout, geometry=geometry, clean=known(start), batch_size=2)
    predict = GraphedModel(model, cache)
    for level in LEVELS:
        latents = {name: x * level for name, x in start.items()}
        sigmas = {name: torch.full((2, size[0]), level) for name, size in COPIED_SIZES.items()}
        want, got = model(latents, sigmas, cache), predict(latents, sigmas)
        assert all(torch.equal(got[name], want[name]) for name in want)
    assert len(graphs) == 1


def test_inference_mode_and_later_calls_outside_of_it(
    model: SeqTexTransformer, graphs: list[FakeGraph]
) -> None:
    predict = GraphedModel(model, plain_cache(model))
    with torch.inference_mode():
        inside = predict(*inputs(0.5))
    with torch.no_grad():
        outside = predict(*inputs(0.5))
    assert all(torch.equal(inside[name], outside[name]) for name in inside)


def test_a_cpu_is_refused(model: SeqTexTransformer) -> None:
    assert reason_graph_unsupported(torch.device("cuda", 0)) is None
    with pytest.raises(UnsupportedError, match=r"on cpu, where.*no CUDA graphs.*model itself"):
        GraphedModel(model, plain_cache(model))


def test_weights_on_several_devices_are_refused(
    model: SeqTexTransformer, graphs: list[FakeGraph]
) -> None:
    cache = plain_cache(model)
    model.shells["uv"].to("meta")
    with pytest.raises(UnsupportedError, match="weights on cpu, meta"):
        GraphedModel(model, cache)


def test_caches_that_cannot_be_captured_are_refused(
    model: SeqTexTransformer, graphs: list[FakeGraph]
) -> None:
    with_gradients = model.prepare(model.layout(SIZES, STREAMS))
    with pytest.raises(UsageError, match=r"cache.*gradients off.*no_grad"):
        GraphedModel(model, with_gradients)
    with pytest.raises(UsageError, match="StepCache"):
        GraphedModel(model, {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="model"):
        GraphedModel(model.backbone, with_gradients)  # type: ignore[arg-type]


def test_calls_unlike_the_first_are_refused(
    model: SeqTexTransformer, graphs: list[FakeGraph]
) -> None:
    predict = GraphedModel(model, plain_cache(model))
    latents, sigmas = inputs(0.5)
    with torch.enable_grad(), pytest.raises(UsageError, match="gradients on"):
        predict(latents, sigmas)
    with torch.no_grad():
        with torch.autocast("cpu"), pytest.raises(UsageError, match="autocast on"):
            predict(latents, sigmas)
        assert not graphs
        predict(latents, sigmas)
        with pytest.raises(UsageError, match=r"captured graph: texture .*float32.*got.*bfloat16"):
            predict({n: x.bfloat16() for n, x in latents.items()}, sigmas)
        with pytest.raises(UsageError, match=r"captured graph: texture.*another GraphedModel"):
            predict({"views": latents["views"]}, {"views": sigmas["views"]})
        with pytest.raises(UsageError, match=r"latents\['texture'\]: expected.*8, 8"):
            predict({**latents, "texture": latents["texture"][..., :6]}, sigmas)
        with pytest.raises(UsageError, match=r"latents\['views'\]"):
            predict(*inputs(0.5, batch=2))
    assert [graph.replays for graph in graphs] == [1]


def test_a_model_that_changed_is_refused(model: SeqTexTransformer, graphs: list[FakeGraph]) -> None:
    with torch.no_grad():
        stale, moved = (GraphedModel(model, plain_cache(model)) for _ in range(2))
        for predict in (stale, moved):
            predict(*inputs(0.5))
        model.trunk = ResidualReuse(threshold=0.1)
        with pytest.raises(UnsupportedError, match="ResidualReuse as trunk"):
            moved(*inputs(0.5))
        with pytest.raises(UnsupportedError, match="ResidualReuse as trunk"):
            GraphedModel(model, moved.cache)
        model.trunk = run_blocks
        prepare_for_inference(model)  # moves projections to lie one after the other
        with pytest.raises(UsageError, match=r"weights that were moved.*a new cache"):
            moved(*inputs(0.5))
        next(model.geometry.parameters()).add_(1)
        with pytest.raises(UsageError, match="from before they changed"):
            stale(*inputs(0.5))


def test_any_weight_that_was_moved_is_noticed(
    model: SeqTexTransformer, graphs: list[FakeGraph]
) -> None:
    blocks = list(model.muv_blocks())
    for part in (blocks[0], blocks[-1], model.geometry, model.shells["uv"]):
        with torch.no_grad():
            predict = GraphedModel(model, plain_cache(model))
            predict(*inputs(0.5))
            weight = [*part.parameters()][-1]
            weight.data = weight.detach().clone()  # as streaming and quantising do
            with pytest.raises(UsageError, match="weights that were moved"):
                predict(*inputs(0.5))


def test_a_step_that_waits_for_the_device_is_refused(
    model: SeqTexTransformer, graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = GraphedModel(model, plain_cache(model))

    def refuse(*args: object) -> None:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA: more")

    hook = model.register_forward_pre_hook(refuse)
    with torch.no_grad():
        with pytest.raises(UnsupportedError, match=r"got operation not permitted.*capturing\."):
            predict(*inputs(0.5))
        hook.remove()
        predict(*inputs(0.5))  # nothing was kept of it


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_graph_equals_the_model_on_a_gpu(dtype: torch.dtype) -> None:
    """The same kernels on the same numbers; their workspaces may differ, by a rounding or two."""
    model = prepare_for_inference(plain_model().to("cuda", dtype))
    cache = plain_cache(model)
    predict = GraphedModel(model, cache)
    for level in LEVELS:
        latents, sigmas = inputs(level, device="cuda")
        want, got = model(latents, sigmas, cache), predict(latents, sigmas)
        for name, x in want.items():
            assert float((got[name] - x).norm() / x.norm()) < 4 * torch.finfo(dtype).eps


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_a_copy_head_can_be_captured_on_a_gpu(packed: bool) -> None:
    model = make(CopyConfig(heads=3)).eval().requires_grad_(False).cuda()
    start, _, geometry = scene(2)
    layout: AnyLayout = PackedLayout.of(dense(model), keeps(2)) if packed else dense(model)
    geometry = {name: maps.each(lambda x: x.cuda()) for name, maps in geometry.items()}
    start = {name: x.cuda() for name, x in start.items()}
    cache = model.prepare(layout, geometry=geometry, clean=known(start), batch_size=2)
    predict = GraphedModel(model, cache)
    for level in LEVELS:
        sigmas = {n: torch.full((2, s[0]), level, device="cuda") for n, s in COPIED_SIZES.items()}
        want, got = model(start, sigmas, cache), predict(start, sigmas)
        for name, x in want.items():
            # weights of copies are exponents of up to some hundred: roundings grow by as much
            assert float((got[name] - x).norm() / x.norm()) < 1e-4
