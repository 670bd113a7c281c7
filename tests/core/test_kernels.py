"""The fused operations: eager forms against the plain ones, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import KERNELS, KernelInputs, activation, list_kernels, using_kernels
from seqtex_core.kernels import eager as eager_module
from seqtex_core.kernels.choose import kernels_for
from seqtex_core.lora import LoRALinear
from seqtex_core.modulation import (
    RowNorm,
    affine_norm,
    gated_residual,
    modulated_norm,
    residual_norm,
)
from seqtex_core.query_key import QKNorm, qk_prep, qk_prep_reference
from seqtex_core.rope import Rope

HEADS, DIM = 3, 8
WIDTH = HEADS * DIM
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def rows_of(lengths: list[int]) -> StreamLayout:
    grid = Grid(frames=len(lengths), height=8, width=8)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    return StreamLayout(
        groups=(group,), frame_lengths=tuple(lengths), group_lengths=(sum(lengths),)
    )


@pytest.fixture(params=["in pieces", "whole"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pieces of two or three rows, as on a CPU, or whole tensors, as on a GPU."""
    monkeypatch.setattr(eager_module, "PIECE", 5 * WIDTH)
    monkeypatch.setattr(eager_module, "_in_pieces", lambda x: request.param == "in pieces")
    return str(request.param)


def distance(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def as_accurate(got: Tensor, plain: Tensor, exact: Tensor) -> None:
    """At most twice the plain form's error, or a few roundings where that has almost none."""
    floor = 4 * torch.finfo(got.dtype).eps * (1e-3 if got.dtype == torch.bfloat16 else 1)
    assert got.dtype == plain.dtype
    assert distance(got, exact) <= max(2 * distance(plain, exact), floor)


def both_sums(
    x: Tensor,
    update: Tensor,
    rows: StreamLayout,
    c: Callable[[Tensor], Tensor],
    *,
    gate: Tensor | None,
    levels: tuple[Tensor, Tensor],
    affine: bool,
    at: int,
) -> Tensor:
    """A sum and its norm: the first or the second of the two that ``residual_norm`` gives."""
    factor, shift = (c(part[0, 0] if affine else part) for part in levels)
    norm = RowNorm(factor, shift, 1e-6)
    gate = None if gate is None else c(gate)
    return residual_norm(c(x), c(update), rows, gate=gate, norm=norm)[at]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[4, 4, 4], [7], [1, 0, 6]])
def test_norms_and_gates_are_as_accurate_as_the_plain_forms(
    form: str, dtype: torch.dtype, lengths: list[int]
) -> None:
    rows, frames = rows_of(lengths), len(lengths)
    x, update = (torch.randn(2, sum(lengths), WIDTH).to(dtype) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    shift, factor = (torch.randn(2, frames, WIDTH, dtype=wide) for _ in range(2))
    calls = {
        "modulated": lambda c: modulated_norm(c(x), c(shift), c(factor), rows, eps=1e-6),
        "affine": lambda c: affine_norm(c(x), c(shift[0, 0]), c(factor[0, 0]), eps=1e-6),
        "gated": lambda c: gated_residual(c(x), c(update), c(factor), rows),
    }
    for at, gate in ((0, None), (1, None), (0, shift), (1, shift)):
        calls |= {
            f"sum {at} {gate is None} {affine}": partial(
                both_sums, x, update, rows, gate=gate, levels=(factor, shift), affine=affine, at=at
            )
            for affine in (False, True)
        }
    for call in calls.values():
        with using_kernels("eager"):
            got = call(lambda t: t)
        with using_kernels("plain"):
            as_accurate(got, call(lambda t: t), call(lambda t: t.double()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize("order", ["post_rope", "pre_rope"])
def test_prepared_rows_are_as_accurate_as_the_definition(
    form: str, dtype: torch.dtype, pairing: str, order: str
) -> None:
    angles = 3 * torch.randn(7, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin(), pairing=pairing)
    x = torch.randn(2, 7, WIDTH + 8).to(dtype)[..., :WIDTH]  # rows apart, as in a joint product
    geometry = torch.randn(1, 7, HEADS, DIM).to(dtype)
    weight = 1 + 0.2 * torch.randn(WIDTH).to(dtype)
    options = {"num_heads": HEADS, "rope": rope, "geometry_order": order}
    norm, exact_norm = QKNorm(weight=weight), QKNorm(weight=weight.double())
    for rows in (x, x.contiguous()):
        with using_kernels("eager"):
            got = qk_prep(rows, norm, geometry=geometry, **options)
            alone = qk_prep(rows, norm, num_heads=HEADS)
        plain = qk_prep_reference(rows, norm, geometry=geometry, **options)
        exact = qk_prep_reference(x.double(), exact_norm, geometry=geometry.double(), **options)
        as_accurate(got, plain, exact)
        plain = qk_prep_reference(rows, norm, num_heads=HEADS)
        as_accurate(alone, plain, qk_prep_reference(x.double(), exact_norm, num_heads=HEADS))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_pieces_of_any_size_give_the_same_bits(lengths: list[int]) -> None:
    """Every row is computed on its own, so where the pieces end cannot matter."""
    rows = rows_of(lengths)
    x = torch.randn(1, sum(lengths), WIDTH, dtype=torch.bfloat16)
    shift, factor = torch.randn(2, 1, len(lengths), WIDTH)
    results = []
    with pytest.MonkeyPatch.context() as patch, using_kernels("eager"):
        for piece in (1, 3 * WIDTH, 1 << 16):
            patch.setattr(eager_module, "PIECE", piece)
            results.append(modulated_norm(x, shift, factor, rows, eps=1e-6))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_inputs_are_left_as_they_are() -> None:
    x, geometry = torch.randn(1, 5, WIDTH), torch.randn(1, 5, HEADS, DIM)
    before = x.clone(), geometry.clone()
    angles = torch.randn(5, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin())
    for norm in (None, QKNorm(weight=torch.ones(WIDTH))):
        qk_prep(x, norm, num_heads=HEADS, rope=rope, geometry=geometry)
    assert torch.equal(x, before[0])
    assert torch.equal(geometry, before[1])


def test_auto_takes_the_plain_form_where_gradients_are_asked_for() -> None:
    x = torch.randn(1, 4, WIDTH, requires_grad=True)
    assert kernels_for("norm", x, WIDTH).name == "plain"
    assert kernels_for("norm", x.detach(), WIDTH, x).name == "plain"
    with torch.no_grad():
        assert kernels_for("norm", x, WIDTH).name == "eager"


def test_autocast_gets_the_plain_form() -> None:
    """It would take LayerNorm and GELU, but not the rest, to another dtype."""
    x = torch.randn(1, 4, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert kernels_for("norm", x, WIDTH).name == "plain"
        out = activation.linear_gelu(x, nn.Linear(WIDTH, 7))
    assert out.dtype == torch.bfloat16


def test_the_plain_form_is_loaded_before_a_graph_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that compiles before it has run anything: a graph imports nothing."""
    lazy = {**KERNELS._entries, "plain": "seqtex_core.kernels.plain:PLAIN"}
    monkeypatch.setattr(KERNELS, "_entries", lazy)
    torch.compiler.reset()
    norm = torch.compile(affine_norm, backend="eager", fullgraph=True)
    x, weight, bias = torch.randn(1, 3, WIDTH), torch.ones(WIDTH), torch.zeros(WIDTH)
    wanted = functional.layer_norm(x, (WIDTH,), weight, bias, 1e-6)
    torch.testing.assert_close(norm(x, weight, bias, eps=1e-6), wanted)


def test_a_named_one_that_cannot_run_says_why() -> None:
    x = torch.randn(1, 4, WIDTH, requires_grad=True)
    rows, level = rows_of([4]), torch.zeros(1, 1, WIDTH)
    with using_kernels("eager"), pytest.raises(UnsupportedError, match="has no gradients"):
        gated_residual(x, x, level, rows)
    with using_kernels("triton"), pytest.raises(UnsupportedError, match="needs a CUDA device"):
        gated_residual(x, x, level, rows)
    with pytest.raises(UsageError, match="eager"), using_kernels("eagre"):
        pass
    assert kernels_for("gate", x.detach(), WIDTH).name == "eager"  # what was asked for has ended


def test_the_list_gives_reasons() -> None:
    reasons = dict(list_kernels("cpu"))
    reason = "needs a CUDA device, not cpu"
    assert reasons == {"triton": reason, "triton_fixed": reason, "eager": None, "plain": None}
    triton = KERNELS.get("triton")
    odd = KernelInputs(
        operation="qk_prep", device=torch.device("cuda"), dtype=torch.float64, width=48
    )
    assert triton.reason_unsupported(odd) is not None


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize("fused", [False, True])
def test_gelu_behind_a_layer(
    monkeypatch: pytest.MonkeyPatch, approximate: str, fused: bool
) -> None:
    """fp32: sums over 24 channels in another order; oneDNN's tanh is good to a few roundings."""
    assert not activation._fuses_tanh(torch.device("cpu"), torch.float32)
    monkeypatch.setattr(activation, "_fuses_tanh", lambda device, dtype: fused)
    x, layer = torch.randn(2, 5, WIDTH), nn.Linear(WIDTH, 7)
    adapted = LoRALinear(nn.Linear(WIDTH, 7), rank=2, alpha=2.0)
    nn.init.normal_(adapted.lora_B.weight)
    merged = LoRALinear(nn.Linear(WIDTH, 7), rank=2, alpha=2.0)
    merged.merge()
    for each in (layer, adapted, merged):
        want = functional.gelu(each(x), approximate=approximate)
        with torch.no_grad():
            got = activation.linear_gelu(x, each, approximate=approximate)
        assert got.shape == want.shape
        assert float((got - want).detach().abs().max()) < 2e-6
        assert torch.equal(activation.linear_gelu(x, each, approximate=approximate), want)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("lengths", [(1, 1), (2, 37)])
def test_gelu_in_place_is_as_accurate_as_that_of_torch(
    form: str, dtype: torch.dtype, lengths: tuple[int, int]
) -> None:
    """Also where it is nearly 0 or nearly x, in pieces that do not divide the rows."""
    x = (8 * torch.randn(*lengths, WIDTH)).to(dtype)
    exact = functional.gelu(x.double(), approximate="tanh")
    got = activation.gelu_in_place(x.clone())
    as_accurate(got, functional.gelu(x, approximate="tanh"), exact)
    bias = torch.randn(WIDTH).to(dtype)
    exact = functional.gelu(x.double() + bias.double(), approximate="tanh")
    got = activation.gelu_in_place(x.clone(), bias)
    as_accurate(got, functional.gelu(x + bias, approximate="tanh"), exact)
    far = torch.tensor([[-3e4, -60.0, 0.0, 60.0, 3e4]], dtype=dtype)
    assert torch.equal(activation.gelu_in_place(far.clone()), far.clamp_min(0))


@pytest.mark.skipif(
    not activation._fuses_tanh(torch.device("cpu"), torch.bfloat16),
    reason="oneDNN has no bfloat16 product for this CPU",
)
@torch.no_grad()
def test_gelu_in_the_epilogue_of_narrow_rows_is_as_accurate_as_the_plain_form() -> None:
    x, layer = torch.randn(2, 9, WIDTH).bfloat16(), nn.Linear(WIDTH, 40).bfloat16()
    plain = functional.gelu(layer(x), approximate="tanh")
    wide = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    got = activation.linear_gelu(x, layer)
    assert got.shape == plain.shape
    as_accurate(got, plain, functional.gelu(wide, approximate="tanh"))


def test_gelu_leaves_what_hooks_have_seen() -> None:
    seen: list[Tensor] = []
    layer = nn.Linear(WIDTH, 7)
    layer.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        x = torch.randn(3, WIDTH)
        activation.linear_gelu(x, layer)
    assert torch.equal(seen[0], functional.linear(x, layer.weight, layer.bias))
