"""RMS norms in front of sublayers: every form of the fused operations against the plain one."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import eager, using_kernels
from seqtex_core.kernels.triton_backend import TritonKernels
from seqtex_core.modulation import RowNorm, modulated_norm, normed_rows, residual_norm

WIDTH = 24
LENGTHS = (3, 0, 4)
interpreted = pytest.param(
    TritonKernels(interpreted=True),
    id="triton",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs Triton's interpreter",
    ),
)


def rows_of() -> StreamLayout:
    grid = Grid(frames=len(LENGTHS), height=8, width=8)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    return StreamLayout(groups=(group,), frame_lengths=LENGTHS, group_lengths=(sum(LENGTHS),))


def tables() -> tuple[Tensor, Tensor, Tensor]:
    factor, shift, gate = torch.randn(3, 2, len(LENGTHS), WIDTH)
    return factor, shift, gate


def distance(got: Tensor, exact: Tensor) -> float:
    got, exact = got.detach().double(), exact.detach().double()
    return float((got - exact).norm() / exact.norm())


def test_the_definition() -> None:
    """Every row divided by its root mean square, then its own frame's values."""
    x, (factor, shift, _) = 3 + torch.randn(2, sum(LENGTHS), WIDTH), tables()
    frames = torch.tensor(LENGTHS)
    spread = [table.repeat_interleave(frames, dim=1) for table in (factor, shift)]
    unit = x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    with using_kernels("plain"):
        got = modulated_norm(x, shift, factor, rows_of(), eps=1e-6, kind="rms")
    torch.testing.assert_close(got, unit * spread[0] + spread[1], rtol=0, atol=4e-6)
    centred = functional.layer_norm(x, (WIDTH,), eps=1e-6) * spread[0] + spread[1]
    assert float((got - centred).abs().max()) > 0.1  # the mean is 3: it matters that it stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", ["pieces", "whole", interpreted])
@torch.no_grad()
def test_forms_are_as_accurate_as_the_plain_one(
    kernels: str | TritonKernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small pieces, as whole tensors, as one kernel; the norm alone and behind a sum."""
    if isinstance(kernels, str):
        monkeypatch.setattr(eager, "PIECE", 2 * WIDTH)
        monkeypatch.setattr(eager, "_in_pieces", lambda x, pieces=kernels == "pieces": pieces)
    rows, (factor, shift, gate) = rows_of(), tables()
    x, update = (1 + torch.randn(2, sum(LENGTHS), WIDTH).to(dtype) for _ in range(2))
    norm = RowNorm(factor, shift, 1e-6, "rms")
    exact_norm = RowNorm(factor.double(), shift.double(), 1e-6, "rms")
    with using_kernels("eager" if isinstance(kernels, str) else kernels):
        alone = normed_rows(x, norm, rows)
        total, behind = residual_norm(x, update, rows, gate=gate, norm=norm)
    with using_kernels("plain"):
        exact = normed_rows(x.double(), exact_norm, rows)
        exact_behind = normed_rows(total.double(), exact_norm, rows)
    bound = 1e-6 if dtype == torch.float32 else 2**-7  # the interpreter truncates
    assert alone.dtype == behind.dtype == dtype
    assert distance(alone, exact) < bound
    assert distance(behind, exact_behind) < bound


@pytest.mark.parametrize("kernels", [interpreted])
@pytest.mark.parametrize("gated", [False, True])
def test_gradients_of_one_kernel_are_those_of_the_plain_form(
    kernels: TritonKernels, gated: bool
) -> None:
    """fp32: sums over 24 channels and a few rows in another order."""
    rows, leaves = rows_of(), [t.requires_grad_() for t in tables()]
    x, update = (1 + torch.randn(2, sum(LENGTHS), WIDTH) for _ in range(2))
    leaves = [x.requires_grad_(), update.requires_grad_(), *leaves[: 3 if gated else 2]]
    norm = RowNorm(leaves[2], leaves[3], 1e-5, "rms")
    incoming, results = torch.randn(2, 2, sum(LENGTHS), WIDTH), []
    for each in (kernels, "plain"):
        with using_kernels(each):
            gate = leaves[4] if gated else None
            out = residual_norm(x, update, rows, gate=gate, norm=norm)
        results.append((*out, *torch.autograd.grad(out, leaves, [*incoming])))
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape
        assert distance(got, want) < 2e-6
