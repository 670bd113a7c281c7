"""The Triton kernels on a real GPU: every operation and its gradients against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import tuning, using_kernels
from seqtex_core.modulation import (
    RowNorm,
    affine_norm,
    gated_residual,
    modulated_norm,
    residual_norm,
)
from seqtex_core.query_key import QKNorm, qk_prep
from seqtex_core.rope import Rope

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
FIXED, TUNED = "triton_fixed", "triton"
HEADS, DIM = 12, 128
WIDTH = HEADS * DIM
LENGTHS = (61, 0, 300)
ROWS = sum(LENGTHS)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Call = Callable[[Sequence[Tensor]], Tensor | tuple[Tensor, ...]]


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def frames(lengths: tuple[int, ...] = LENGTHS) -> StreamLayout:
    grid = Grid(frames=len(lengths), height=20, width=20)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    return StreamLayout(groups=(group,), frame_lengths=lengths, group_lengths=(sum(lengths),))


def distance(got: Tensor, exact: Tensor) -> float:
    got, exact = got.detach().double(), exact.detach()
    return float((got - exact).norm() / exact.norm().clamp_min(1e-30))


def as_near_as_plain(call: Call, leaves: Sequence[Tensor], *, triton: str = FIXED) -> None:
    """Outputs and gradients at most twice (gradients three times) as far from fp64 as plain ones.

    Or within a unit in the last place, where the plain form is lucky.
    """
    results = []
    for kernels, kind in ((triton, None), ("plain", None), ("plain", torch.float64)):
        own = [t.detach().to(kind or t.dtype).requires_grad_() for t in leaves]
        with using_kernels(kernels):
            out = call(own)
        outs = list(out) if isinstance(out, tuple) else [out]
        incoming = [torch.cos(torch.arange(o.numel(), device=o.device)).view_as(o) for o in outs]
        grads = torch.autograd.grad(
            outs, own, [g.to(o) for g, o in zip(incoming, outs, strict=True)]
        )
        results.append([*outs, *grads])
    for index, (fast, plain, exact) in enumerate(zip(*results, strict=True)):
        assert fast.shape == plain.shape
        assert fast.dtype == plain.dtype
        assert bool(torch.isfinite(fast).all())
        factor = 2 if index < len(outs) else 3
        eps = torch.finfo(fast.dtype).eps
        assert distance(fast, exact) <= max(factor * distance(plain, exact), eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize("order", ["post_rope", "pre_rope"])
@pytest.mark.parametrize(("kind", "scope"), [("rms", "inner"), ("rms", "head"), ("layer", "inner")])
def test_prepared_rows(dtype: torch.dtype, pairing: str, order: str, kind: str, scope: str) -> None:
    angles = drawn(ROWS, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin(), pairing=pairing)
    x, geometry = drawn(2, ROWS, WIDTH, dtype=dtype), drawn(1, ROWS, HEADS, DIM, dtype=dtype)
    weight = 1 + 0.1 * drawn(DIM if scope == "head" else WIDTH, dtype=dtype)

    def call(leaves: Sequence[Tensor]) -> Tensor:
        norm = QKNorm(weight=leaves[2], eps=1e-6, kind=kind, scope=scope)
        return qk_prep(
            leaves[0],
            norm,
            num_heads=HEADS,
            rope=rope,
            geometry=leaves[1],
            geometry_order=order,
        )

    as_near_as_plain(call, [x, geometry, weight])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", ["modulated", "affine", "gated", "sum and norm"])
def test_norms_gates_and_sums(dtype: torch.dtype, operation: str) -> None:
    rows = frames()
    x, update = (drawn(2, ROWS, WIDTH, dtype=dtype) for _ in range(2))
    shift, factor, gate = (drawn(2, len(LENGTHS), WIDTH) for _ in range(3))
    leaves = {
        "modulated": [x, shift, factor],
        "affine": [x, factor[0, 0], shift[0, 0]],
        "gated": [x, update, gate],
        "sum and norm": [x, update, gate, factor, shift],
    }[operation]

    def call(t: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        if operation == "modulated":
            return modulated_norm(t[0], t[1], t[2], rows, eps=1e-6)
        if operation == "affine":
            return affine_norm(t[0], t[1], t[2], eps=1e-6)
        if operation == "gated":
            return gated_residual(t[0], t[1], t[2], rows)
        return residual_norm(t[0], t[1], rows, gate=t[2], norm=RowNorm(t[3], t[4], 1e-6))

    as_near_as_plain(call, leaves)


@pytest.mark.parametrize("lengths", [LENGTHS, (120, 120, 120)])
def test_gradients_have_the_same_bits_every_time(lengths: tuple[int, ...]) -> None:
    rows = frames(lengths)
    x, update = (drawn(2, sum(lengths), WIDTH, dtype=torch.bfloat16) for _ in range(2))
    leaves = [drawn(2, len(lengths), WIDTH).requires_grad_() for _ in range(3)]
    incoming = [torch.cos(x), torch.sin(x)]
    every = []
    for _ in range(5):
        with using_kernels(FIXED):
            norm = RowNorm(leaves[1], leaves[2], 1e-6)
            out = residual_norm(x, update, rows, gate=leaves[0], norm=norm)
        every.append(torch.autograd.grad(out, leaves, incoming))
    for again in every[1:]:
        for ours, theirs in zip(again, every[0], strict=True):
            assert torch.equal(ours, theirs)


def test_what_was_measured_is_as_near_and_what_a_graph_captures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is known at first; the fastest config need not be another than the default."""
    monkeypatch.setattr(tuning, "_found", {})
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows, x, update = frames(), *(drawn(2, ROWS, WIDTH, dtype=torch.bfloat16) for _ in range(2))
    shift, factor, gate = (drawn(2, len(LENGTHS), WIDTH) for _ in range(3))

    def call(t: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return residual_norm(t[0], t[1], rows, gate=t[2], norm=RowNorm(t[3], t[4], 1e-6))

    leaves = [x, update, gate, factor, shift]
    as_near_as_plain(call, leaves, triton=TUNED)
    assert len(tuning._found) == 2
    with using_kernels(TUNED), torch.no_grad(), tuning.watched_launches() as seen:
        eager = call(leaves)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call(leaves)
    graph.replay()
    assert len(tuning._found) == 3  # without gradients it is another kernel
    assert len(seen) == 2
    assert seen[0] == seen[1]
    for ours, theirs in zip(captured, eager, strict=True):
        assert torch.equal(ours, theirs)
