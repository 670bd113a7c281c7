"""The Triton kernels: in Triton's interpreter against the definitions, and compiled for GPUs.

The tests' conftest turns the interpreter on before Triton is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import triton_launch, triton_residual, using_kernels
from seqtex_core.kernels.triton_backend import TritonKernels
from seqtex_core.kernels.tuning import Config
from seqtex_core.modulation import (
    RowNorm,
    affine_norm,
    gated_residual,
    modulated_norm,
    normed_rows,
    residual_norm,
)
from seqtex_core.query_key import QKNorm, qk_prep, qk_prep_reference
from seqtex_core.rope import Rope

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton (extra dev)"
)
needs_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(), reason="with a GPU the kernels are not interpreted"
)
HEADS, DIM, ROWS = 3, 8, 3
FEW = 5
INTERPRETED = TritonKernels(interpreted=True)
LEAST_BITS = 128


def distance(got: Tensor, exact: Tensor) -> float:
    got, exact = got.detach().double(), exact.detach().double()
    return float((got - exact).norm() / exact.norm())


def rows_of(*lengths: int) -> StreamLayout:
    grid = Grid(frames=len(lengths), height=8, width=8)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    return StreamLayout(groups=(group,), frame_lengths=lengths, group_lengths=(sum(lengths),))


@pytest.fixture
def short_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short as they can be, so that few rows are several of them."""
    for module in (triton_launch, triton_residual):
        monkeypatch.setattr(module, "backward_configs", lambda elements, sums: (Config(1, 8),))


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
    short_strips: None, norm: str, order: str, pairing: str, per_head: bool
) -> None:
    """fp32: sums over up to 24 channels in another order, a few roundings; a strip is not full."""
    angles = torch.randn(FEW, *([HEADS] if per_head else []), DIM // 2)
    options = {
        "num_heads": HEADS,
        "rope": Rope(cos=angles.cos(), sin=angles.sin(), pairing=pairing),
        "geometry_order": order,
    }
    made = make_norm(norm, dtype=torch.float32)
    x = torch.randn(2, FEW, HEADS * DIM + 8)[..., : HEADS * DIM].requires_grad_()
    geometry = torch.randn(1, FEW, HEADS, DIM, requires_grad=True)
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
    rows = rows_of(1, 2)
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
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_sum_and_next_norm_and_their_gradients(
    short_strips: None, affine: bool, gated: bool
) -> None:
    """fp32: sums over 24 channels and a few rows in another order; strips end with their frame."""
    rows, width = rows_of(1, 0, 9), HEADS * DIM
    x = torch.randn(2, 10, width + 8)[..., :width].requires_grad_()
    update = torch.randn(2, 13, width)[:, 3:].requires_grad_()
    gate = torch.randn(2, 3, 2, width)[:, :, 1].requires_grad_() if gated else None
    size = (width,) if affine else (2, 3, width)
    factor, shift = (torch.randn(size, requires_grad=True) for _ in range(2))
    norm = RowNorm(factor, shift, 1e-5)
    leaves = [t for t in (x, update, gate, factor, shift) if t is not None]
    incoming = torch.randn(2, 2, 10, width)
    results = []
    for kernels in (INTERPRETED, "plain"):
        with using_kernels(kernels):
            out = residual_norm(x, update, rows, gate=gate, norm=norm)
        results.append((*out, *torch.autograd.grad(out, leaves, [*incoming])))
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape
        assert distance(got, want) < 2e-6


@needs_interpreter
@pytest.mark.parametrize("operation", ["modulated", "affine", "gated"])
def test_gradients_of_norms_and_gates(short_strips: None, operation: str) -> None:
    """Each alone, bf16 rows: their gradients are rounded once, those of fp32 values are sums.

    The interpreter truncates, so that a rounding is off by up to 2^-7.
    """
    rows, width = rows_of(9, 1), HEADS * DIM
    x, update = (torch.randn(2, 10, width).bfloat16().requires_grad_() for _ in range(2))
    shift, factor = (torch.randn(2, 2, width, requires_grad=True) for _ in range(2))

    def call(c: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        rows_in, added, first, second = leaves = [c(t) for t in (x, update, shift, factor)]
        if operation == "modulated":
            return modulated_norm(rows_in, first, second, rows, eps=1e-5), [rows_in, first, second]
        if operation == "affine":
            leaves = [rows_in, first, second]
            return affine_norm(rows_in, second[0, 0], first[0, 0], eps=1e-5), leaves
        return gated_residual(rows_in, added, second, rows), [rows_in, added, second]

    incoming = torch.randn(2, 10, width).bfloat16()
    with using_kernels(INTERPRETED):
        out, leaves = call(lambda t: t)
    ours = torch.autograd.grad(out, leaves, incoming)
    with using_kernels("plain"):
        exact, leaves = call(lambda t: t.detach().double().requires_grad_())
    theirs = torch.autograd.grad(exact, leaves, incoming.double())
    for got, want in zip(ours, theirs, strict=True):
        assert got.shape == want.shape
        assert distance(got, want) < (2**-7 if got.dtype == torch.bfloat16 else 1e-6)


@needs_interpreter
def test_what_is_frozen_has_no_gradient_and_the_rest_its_own(short_strips: None) -> None:
    """As with adapters on frozen weights: no sums are made, and those of rows are the same."""
    width, rows = HEADS * DIM, rows_of(4, 5)
    x, update = (torch.randn(1, 9, width, requires_grad=True) for _ in range(2))
    gate, factor, shift = torch.randn(3, 1, 2, width)
    weight = torch.randn(width)
    results = []
    for kernels in (INTERPRETED, "plain"):
        with using_kernels(kernels):
            prepared = qk_prep(x, QKNorm(weight=weight), num_heads=HEADS)
            summed = residual_norm(x, update, rows, gate=gate, norm=RowNorm(factor, shift, 1e-5))
            factor.requires_grad_()
            learned = modulated_norm(x, shift, factor, rows, eps=1e-5)
        total = prepared.square().sum() + sum(out.square().sum() for out in summed)
        results.append(torch.autograd.grad(total, (x, update)))
        results[-1] += torch.autograd.grad(learned.square().sum(), factor)
        factor.requires_grad_(False)
    for got, want in zip(*results, strict=True):
        assert distance(got, want) < 2e-6


@needs_interpreter
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_strip_that_is_not_full_asks_nothing_of_epsilon(short_strips: None, kind: str) -> None:
    """What lies behind the last row is no row of zeros, whose norm would be infinite."""
    x, weight = torch.randn(1, FEW, HEADS * DIM), torch.randn(HEADS * DIM, requires_grad=True)
    norm = QKNorm(weight=weight, eps=0.0, kind=kind)
    gradients = []
    for kernels in (INTERPRETED, "plain"):
        with using_kernels(kernels):
            prepared = qk_prep(x, norm, num_heads=HEADS)
        gradients += torch.autograd.grad(prepared.square().sum(), weight)
    assert distance(*gradients) < 2e-6


@needs_interpreter
@pytest.mark.parametrize("lengths", [(9, 9), (0, 0), (1, 0, 17)])
def test_sums_of_frames_are_made_in_one_order(short_strips: None, lengths: tuple[int, ...]) -> None:
    """Of what adds up in any order on a GPU, nothing is called."""
    rows, width = rows_of(*lengths), HEADS * DIM
    x, update = torch.randn(2, 2, sum(lengths), width)
    leaves = [torch.randn(2, len(lengths), width, requires_grad=True) for _ in range(3)]
    results = []
    for kernels in (INTERPRETED, "plain"):
        with using_kernels(kernels):
            norm = RowNorm(leaves[1], leaves[2], 1e-5)
            out = residual_norm(x, update, rows, gate=leaves[0], norm=norm)
        with torch.profiler.profile() as seen:
            results.append(torch.autograd.grad([o.sin().sum() for o in out], leaves))
        called = {event.key for event in seen.key_averages()}
        if kernels is INTERPRETED:
            assert not {name for name in called if "index" in name or "scatter" in name}
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape
        assert float((got - want).norm()) <= 2e-6 * float(want.norm())


@needs_interpreter
def test_values_of_one_sample_are_those_of_all(short_strips: None) -> None:
    """Nothing is read behind them; their gradients are summed over the samples."""
    rows, width = rows_of(2, 1), HEADS * DIM
    x, update = torch.randn(2, 3, 3, width)
    leaves = [torch.randn(1, 2, width, requires_grad=True) for _ in range(3)]
    incoming = torch.randn(2, 3, 3, width)
    results = []
    for kernels in (INTERPRETED, "plain"):
        with using_kernels(kernels):
            norm = RowNorm(leaves[1], leaves[2], 1e-5)
            out = residual_norm(x, update, rows, gate=leaves[0], norm=norm)
        results.append((*out, *torch.autograd.grad(out, leaves, [*incoming])))
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape
        assert distance(got, want) < 2e-6


@needs_interpreter
def test_normalised_rows_go_where_they_are_wanted() -> None:
    rows, width = rows_of(2), HEADS * DIM
    x, update = torch.randn(2, 2, 2, width)
    norm = RowNorm(torch.randn(2, 1, width), torch.randn(2, 1, width), 1e-6)
    for kernels in (INTERPRETED, "eager", "plain"):
        longer = torch.full((2, 5, width), -1.0)
        with using_kernels(kernels), torch.no_grad():
            want = residual_norm(x, update, rows, gate=None, norm=norm)[1]
            got = residual_norm(x, update, rows, gate=None, norm=norm, out=longer[:, 1:3])[1]
            assert torch.equal(got, want)
            assert torch.equal(longer[:, 1:3], want)
            normed_rows(x, norm, rows, out=longer[:, 3:])
            assert torch.equal(longer[:, 3:], normed_rows(x, norm, rows))
        assert bool((longer[:, 0] == -1).all())


def _compiled(*asked: object) -> list[list[str]]:
    """Rows of the report: kernel, architecture, warps, registers, stack and what moves."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "seqtex_core.kernels.compile_report"]
    done = subprocess.run(
        [*command, *map(str, asked)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.split(" | ") for line in done.stdout.splitlines()[1:-2]]


def test_machine_code_is_looked_at_for_every_family_in_every_order() -> None:
    from seqtex_core.kernels.compile_report import cases

    every = list(cases())
    for name in ("N", "HALF", "ROPE_PER_HEAD", "LAYER", "NORM_PER_HEAD", "GEOMETRY_FIRST"):
        assert len({case.constants[name] for case in every if name in case.constants}) > 1, name
    for name in ("TURNED_GEOMETRY", "CENTRED", "UPDATE", "GATE"):
        backward = [case for case in every if case.direction == "backward"]
        assert {c.constants[name] for c in backward if name in c.constants} == {True, False}, name
    assert len({case.name for case in every}) * 2 == len(every)


@pytest.mark.parametrize(
    "asked",
    [
        (90, "Wan2.1 1.3B"),
        *(pytest.param((sm, "tuned"), marks=pytest.mark.slow) for sm in (80, 90, 100)),
    ],
)
def test_machine_code_stays_in_registers_and_moves_128_bits(asked: tuple[object, ...]) -> None:
    """All but the indices of a row or strip and, in half pairing, the small table of angles."""
    rows = _compiled(*asked)
    assert len(rows) >= 16
    for name, architecture, _, registers, stack, in_flight, loads, stores in rows:
        # Backward keeps sums, but should leave room for programs that keep the memory busy. Triton
        # 3.6 and 3.7 make at least 1.08 of it by default, 0.57 on the B200; 3.9, which takes more
        # than 128 registers for 3 sums of 3072 channels, 1.08, 0.81 and 0.38, as do other configs.
        assert "backward" in name or int(registers) <= 64, name
        assert float(in_flight) >= {"80": 1.05, "90": 0.8, "100": 0.35}[architecture], name
        # Compilers differ by a few words on the stack (3.7: none; 3.6: 8 bytes, of one kernel; 3.9:
        # up to 16 bytes, of 4). A piece of a row that does not fit would be hundreds.
        assert int(stack) <= (16 if "backward" in name else 0), name
        narrow = [bits for bits in map(int, loads.split()) if bits < LEAST_BITS]
        if "half" in name or ("Cosmos" in name and "qk_prep" in name):
            # With fewer warps than by default, the weights of a head, too, which are in the cache.
            assert len(narrow) <= (3 if "warps" in name else 2), name
        else:
            assert set(narrow) <= {32, 64}, name
            assert len(narrow) <= (5 if "backward" in name else 1), name
        assert min(map(int, stores.split())) == LEAST_BITS, name
