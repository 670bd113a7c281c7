from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqtex_core.errors import UsageError
from seqtex_core.query_key import QKNorm, qk_prep, qk_prep_reference, rotate_geometry
from seqtex_core.rope import Rope, RopeSpec, apply_rope, rope_for_grid, wan_axis_dims

HEADS, DIM = 3, 8
NORMS = ("rms inner", "rms head", "layer inner", "layer head", "none")
ORDERS = ("post_rope", "pre_rope")


def make_norm(which: str, *, bias: bool = True) -> QKNorm | None:
    if which == "none":
        return None
    kind, scope = which.split()
    size = DIM if scope == "head" else HEADS * DIM
    shift = torch.randn(size) if bias else None
    return QKNorm(weight=torch.rand(size) + 0.5, bias=shift, kind=kind, scope=scope)


def make_rope(rows: int, pairing: str = "interleaved") -> Rope:
    angles = torch.randn(rows, DIM // 2) * 3
    return Rope(cos=angles.cos(), sin=angles.sin(), pairing=pairing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("norm", "order"), list(itertools.product(NORMS, ORDERS)))
def test_matches_its_definition(assert_as_accurate, dtype, norm: str, order: str) -> None:
    for rows in (1, 63, 127):
        x = torch.randn(2, rows, HEADS * DIM).to(dtype)
        geometry = torch.randn(1, rows, HEADS, DIM).to(dtype)
        options = {
            "num_heads": HEADS,
            "norm": make_norm(norm),
            "rope": make_rope(rows),
            "geometry": geometry,
            "geometry_order": order,
        }
        plain = qk_prep_reference(x, **options)
        exact = qk_prep_reference(x.double(), **options | {"geometry": geometry.double()})
        assert_as_accurate(qk_prep(x, **options), plain, exact)


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize(("norm", "order"), list(itertools.product(NORMS, ORDERS)))
def test_gradients_match_the_definition(norm: str, order: str, pairing: str) -> None:
    """fp64: any difference is an error in a formula, not rounding."""
    rope, made = make_rope(5, pairing), make_norm(norm)
    leaves = [torch.randn(2, 5, HEADS * DIM), torch.randn(2, 5, HEADS, DIM)]
    leaves += [] if made is None else [made.weight, made.bias]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    out_grad = torch.randn(2, 5, HEADS, DIM, dtype=torch.float64)

    def gradients(run) -> tuple[Tensor, ...]:
        given_norm = None
        if made is not None:
            given_norm = QKNorm(weight=leaves[2], bias=leaves[3], kind=made.kind, scope=made.scope)
        out = run(
            leaves[0],
            given_norm,
            num_heads=HEADS,
            rope=rope,
            geometry=leaves[1],
            geometry_order=order,
        )
        return torch.autograd.grad(out, leaves, out_grad)

    for ours, plain in zip(gradients(qk_prep), gradients(qk_prep_reference), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("use_rope", [False, True])
@pytest.mark.parametrize("use_geometry", [False, True])
def test_every_part_may_be_left_out(use_rope: bool, use_geometry: bool) -> None:
    x = torch.randn(2, 7, HEADS * DIM)
    options = {
        "num_heads": HEADS,
        "rope": make_rope(7) if use_rope else None,
        "geometry": torch.randn(2, 7, HEADS, DIM) if use_geometry else None,
    }
    # values below 12: four fp32 roundings of at most 6e-7 each
    torch.testing.assert_close(
        qk_prep(x, **options), qk_prep_reference(x, **options), atol=2.4e-6, rtol=0
    )


def test_norm_without_parameters_or_bias() -> None:
    x = torch.randn(2, 7, HEADS * DIM) + 3
    for norm in (QKNorm(), QKNorm(kind="layer", scope="head"), make_norm("rms head", bias=False)):
        ours = qk_prep(x, norm, num_heads=HEADS)
        plain = qk_prep_reference(x, norm, num_heads=HEADS)
        torch.testing.assert_close(ours, plain, atol=2.4e-6, rtol=0)


def test_equals_the_steps_of_wan_in_diffusers() -> None:
    from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor

    attention = WanAttention(HEADS * 24, heads=HEADS, dim_head=24, processor=WanAttnProcessor())
    nn.init.uniform_(attention.norm_q.weight, 0.5, 1.5)
    rope = rope_for_grid_of(2, 3, 4)
    x = torch.randn(2, 24, HEADS * 24)
    normed = attention.norm_q(x).unflatten(2, (HEADS, -1))
    cos, sin = rope.cos[:, None], rope.sin[:, None]
    expected = torch.empty_like(normed)
    expected[..., 0::2] = normed[..., 0::2] * cos - normed[..., 1::2] * sin
    expected[..., 1::2] = normed[..., 0::2] * sin + normed[..., 1::2] * cos
    norm = QKNorm(weight=attention.norm_q.weight, eps=attention.norm_q.eps)
    # values below 8: three fp32 roundings of at most 8 * 2^-24 each
    ours = qk_prep(x, norm, num_heads=HEADS, rope=rope)
    torch.testing.assert_close(ours, expected, atol=1.5e-6, rtol=0)


def rope_for_grid_of(frames: int, height: int, width: int) -> Rope:
    from seqtex_core.frames import Grid

    grid = Grid(frames=frames, height=height, width=width)
    return rope_for_grid(grid, RopeSpec(axis_dims=wan_axis_dims(24)))


def test_one_rounding_is_more_accurate_than_rounding_every_step() -> None:
    """bf16: the released code rounds after the norm, after the addition and after the rotation."""
    rope, norm = make_rope(1000), make_norm("rms inner", bias=False)
    x = torch.randn(1, 1000, HEADS * DIM).bfloat16()
    geometry = torch.randn(1, 1000, HEADS, DIM).bfloat16()
    options = {"num_heads": HEADS, "geometry_order": "pre_rope"}
    exact = qk_prep_reference(x.double(), norm, rope=rope, geometry=geometry, **options)
    ours = qk_prep(x, norm, rope=rope, geometry=geometry, **options)
    stepwise = apply_rope(qk_prep(x, norm, num_heads=HEADS) + geometry, rope)

    def error(y: Tensor) -> float:
        return (y.double() - exact).pow(2).mean().sqrt().item()

    assert error(ours) < 0.7 * error(stepwise)


@given(seed=st.integers(0, 1000), pairing=st.sampled_from(["interleaved", "half"]))
def test_geometry_turned_beforehand_serves_the_released_order(seed: int, pairing: str) -> None:
    torch.manual_seed(seed)
    rope, norm = make_rope(6, pairing), make_norm("rms inner")
    x = torch.randn(1, 6, HEADS * DIM)
    geometry = torch.randn(1, 6, HEADS, DIM)
    before = qk_prep(
        x, norm, num_heads=HEADS, rope=rope, geometry=geometry, geometry_order="pre_rope"
    )
    cached = rotate_geometry(geometry, rope)
    after = qk_prep(x, norm, num_heads=HEADS, rope=rope, geometry=cached)
    # values below 16: four fp32 roundings of at most 16 * 2^-24 each
    torch.testing.assert_close(after, before, atol=4e-6, rtol=0)


def test_the_orders_differ() -> None:
    rope, x = make_rope(6), torch.zeros(1, 6, HEADS * DIM)
    geometry = torch.randn(1, 6, HEADS, DIM)
    paper = qk_prep(x, num_heads=HEADS, rope=rope, geometry=geometry)
    released = qk_prep(x, num_heads=HEADS, rope=rope, geometry=geometry, geometry_order="pre_rope")
    assert torch.equal(paper, geometry)
    assert (released - paper).abs().max() > 0.5


def test_non_contiguous_inputs() -> None:
    norm, rope = make_norm("layer head"), make_rope(7)
    x = torch.randn(2, 7, 3 * HEADS * DIM).chunk(3, dim=-1)[1]
    late = torch.randn(2, HEADS * DIM, 7).transpose(1, 2)
    geometry = torch.randn(2, HEADS, 7, DIM).transpose(1, 2)
    for rows in (x, late):
        options = {"num_heads": HEADS, "rope": rope, "geometry": geometry}
        ours, plain = qk_prep(rows, norm, **options), qk_prep_reference(rows, norm, **options)
        torch.testing.assert_close(ours, plain, atol=4e-6, rtol=0)


def test_traces_into_one_graph() -> None:
    x, rope = torch.randn(2, 7, HEADS * DIM), make_rope(7)
    geometry, norm = torch.randn(1, 7, HEADS, DIM), make_norm("rms inner")
    options = {"num_heads": HEADS, "rope": rope, "geometry": geometry}
    traced = torch.compile(qk_prep, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        traced(x, norm, **options), qk_prep(x, norm, **options), atol=4e-6, rtol=0
    )


def test_bad_inputs_are_refused() -> None:
    x, rope = torch.randn(2, 7, HEADS * DIM), make_rope(7)
    geometry = torch.randn(2, 7, HEADS, DIM)
    with pytest.raises(UsageError, match="a divisor of 24, got 5"):
        qk_prep(x, num_heads=5)
    with pytest.raises(UsageError, match=r"x: expected \[B L N\*D\]"):
        qk_prep(x[0], num_heads=HEADS)
    with pytest.raises(UsageError, match=r"norm.weight: expected \[N\*D\] = \[24\], got \[8\]"):
        qk_prep(x, QKNorm(weight=torch.ones(8)), num_heads=HEADS)
    with pytest.raises(UsageError, match=r"norm.bias: expected \[D\] = \[8\], got \[24\]"):
        qk_prep(x, QKNorm(bias=torch.ones(24), scope="head"), num_heads=HEADS)
    with pytest.raises(UsageError, match="geometry: expected"):
        qk_prep(x, num_heads=HEADS, geometry=geometry[:, :6])
    with pytest.raises(UsageError, match="geometry: expected"):
        qk_prep(x, num_heads=HEADS, geometry=torch.randn(3, 7, HEADS, DIM))
    with pytest.raises(UsageError, match="geometry_order"):
        qk_prep(x, num_heads=HEADS, rope=rope, geometry_order="before")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rms"):
        QKNorm(kind="batch")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="inner"):
        QKNorm(scope="all")  # type: ignore[arg-type]
