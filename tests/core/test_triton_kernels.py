"""The Triton kernels: in Triton's interpreter against the definitions, and compiled for GPUs.

The tests' conftest turns the interpreter on before Triton is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import using_kernels
from seqtex_core.kernels.triton_backend import TritonKernels
from seqtex_core.modulation import affine_norm, gated_residual, modulated_norm
from seqtex_core.qk_prep import QKNorm, qk_prep, qk_prep_reference
from seqtex_core.rope import Rope

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton (extra dev)"
)
needs_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(), reason="with a GPU the kernels are not interpreted"
)
HEADS, DIM, ROWS = 3, 8, 3
INTERPRETED = TritonKernels(interpreted=True)
LEAST_BITS = 128


def distance(got: Tensor, exact: Tensor) -> float:
    got, exact = got.detach().double(), exact.detach().double()
    return float((got - exact).norm() / exact.norm())


def make_norm(which: str, *, dtype: torch.dtype) -> QKNorm | None:
    if which == "none":
        return None
    kind, scope = which.split()
    size = DIM if scope == "head" else HEADS * DIM
    weight, bias = (1 + 0.3 * torch.randn(size)).to(dtype), torch.randn(size).to(dtype)
    weight.requires_grad_()
    bias.requires_grad_()
    return QKNorm(weight=weight, bias=bias, kind=kind, scope=scope)


@needs_interpreter
@pytest.mark.parametrize(
    ("norm", "order", "pairing", "per_head"),
    [
        ("rms inner", "post_rope", "interleaved", False),
        ("rms head", "pre_rope", "half", True),
        ("layer inner", "pre_rope", "interleaved", True),
        ("layer head", "post_rope", "half", False),
        ("none", "pre_rope", "half", False),
    ],
)
def test_prepared_rows_and_their_gradients(
    monkeypatch: pytest.MonkeyPatch, norm: str, order: str, pairing: str, per_head: bool
) -> None:
    """fp32: sums over up to 24 channels in another order, a few roundings."""
    from seqtex_core.kernels import triton_launch

    monkeypatch.setattr(triton_launch, "STRIP", 4)  # two strips, one of them not full
    angles = torch.randn(ROWS, *([HEADS] if per_head else []), DIM // 2)
    options = {
        "num_heads": HEADS,
        "rope": Rope(cos=angles.cos(), sin=angles.sin(), pairing=pairing),
        "geometry_order": order,
    }
    made = make_norm(norm, dtype=torch.float32)
    x = torch.randn(2, ROWS, HEADS * DIM + 8)[..., : HEADS * DIM].requires_grad_()
    geometry = torch.randn(1, ROWS, HEADS, DIM, requires_grad=True)
    leaves = [x, geometry] if made is None else [x, geometry, made.weight, made.bias]
    with using_kernels(INTERPRETED):
        got = qk_prep(x, made, geometry=geometry, **options)
    want = qk_prep_reference(x, made, geometry=geometry, **options)
    assert distance(got, want) < 1e-6
    incoming = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad(out, leaves, incoming) for out in (got, want))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert distance(mine, other) < 2e-6


@needs_interpreter
def test_bfloat16_loses_one_rounding() -> None:
    """The interpreter truncates where a GPU rounds to the nearest: a unit in the last place."""
    x = torch.randn(1, ROWS, HEADS * DIM).bfloat16()
    geometry = torch.randn(1, ROWS, HEADS, DIM).bfloat16()
    norm = QKNorm(weight=torch.rand(HEADS * DIM) + 0.5)
    angles = torch.randn(ROWS, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin())
    with using_kernels(INTERPRETED):
        got = qk_prep(x, norm, num_heads=HEADS, rope=rope, geometry=geometry)
    exact = qk_prep_reference(
        x.double(), norm, num_heads=HEADS, rope=rope, geometry=geometry.double()
    )
    assert bool(((got.double() - exact).abs() <= 2**-7 * exact.abs()).all())


@needs_interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_gates(dtype: torch.dtype) -> None:
    """24 channels are padded to 32; frames differ in length."""
    grid = Grid(frames=2, height=8, width=8)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    rows = StreamLayout(groups=(group,), frame_lengths=(1, 2), group_lengths=(3,))
    x, update = (torch.randn(2, ROWS, HEADS * DIM).to(dtype) for _ in range(2))
    shift, factor = torch.randn(2, 2, 2, HEADS * DIM)
    bound = 1e-6 if dtype == torch.float32 else 2**-8
    for call in (
        lambda c: modulated_norm(c(x), c(shift), c(factor), rows, eps=1e-6),
        lambda c: affine_norm(c(x), c(shift[0, 0]), c(factor[0, 0]), eps=1e-6),
        lambda c: gated_residual(c(x), c(update), c(factor), rows),
    ):
        with using_kernels(INTERPRETED):
            got = call(lambda t: t)
        with using_kernels("plain"):
            exact = call(lambda t: t.double())
        assert got.dtype == dtype
        assert distance(got, exact) < bound


@needs_interpreter
def test_gate_and_next_norm_in_one() -> None:
    from seqtex_core.kernels.triton_launch import residual_norm

    grid = Grid(frames=1, height=8, width=8)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    rows = StreamLayout(groups=(group,), frame_lengths=(ROWS,), group_lengths=(ROWS,))
    x, update = torch.randn(2, 1, ROWS, HEADS * DIM)
    gate, factor, shift = torch.randn(3, 1, 1, HEADS * DIM)
    residual, normed = residual_norm(x, rows, update=update, gate=gate, norm=(factor, shift))
    with using_kernels("plain"):
        want = gated_residual(x, update, gate, rows)
        assert normed is not None
        assert distance(residual, want) < 1e-6
        assert distance(normed, modulated_norm(want, shift, factor, rows, eps=1e-6)) < 1e-6


def _compiled(*architectures: int) -> list[list[str]]:
    """Rows of the report: kernel, architecture, registers, stack, bits of loads and stores."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "seqtex_core.kernels.compile_report"]
    done = subprocess.run(
        [*command, *map(str, architectures)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.split(" | ") for line in done.stdout.splitlines()[1:]]


@pytest.mark.parametrize(
    "architecture",
    [90, pytest.param(80, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)],
)
def test_machine_code_spills_nothing_and_moves_128_bits(architecture: int) -> None:
    """All but the frame's index and, in half pairing, the small table of angles."""
    rows = _compiled(architecture)
    assert len(rows) == 7
    for name, _, registers, stack, loads, stores in rows:
        most = 80 if "backward" in name else 64
        assert int(registers) <= most, name
        assert int(stack) == 0, name
        narrow = [bits for bits in map(int, loads.split()) if bits < LEAST_BITS]
        assert len(narrow) <= (2 if "half" in name else 1), name
        assert narrow == [] or "half" in name or narrow == [64], name
        assert min(map(int, stores.split())) == LEAST_BITS, name
