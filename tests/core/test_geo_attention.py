"""Geo-Attention as a function: against its definition, in both orders, with text and masks."""

import itertools

import pytest
import torch
from geo_attention_inputs import (
    DIM,
    HEADS,
    MV,
    ORDERS,
    SPEC,
    TABLES,
    TEXTURE,
    UV,
    VIEWS,
    geometry,
    rows,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqtex_core.attention import ATTENTION, AttentionInputs, attention_reference
from seqtex_core.attention.geo_attention import (
    Placement,
    geo_attention,
    geo_attention_reference,
)
from seqtex_core.errors import UsageError
from seqtex_core.frames import TokenLayout
from seqtex_core.query_key import rotate_geometry
from seqtex_core.rope import Rope, rope_table


def cases() -> list[tuple[str, Placement, Placement | None]]:
    """Self-attention of the views, the texture over both, joint with text, cross to text."""
    both = Rope.cat([TABLES["mv"], TABLES["uv"]])
    mv, uv = geometry(MV), geometry(UV)
    all_rows = torch.cat((mv, uv), dim=1)
    plain = Placement(rope=TABLES["mv"], geometry=mv)
    return [
        ("self", plain, None),
        (
            "uv over both",
            Placement(rope=TABLES["uv"], geometry=uv),
            Placement(rope=both, geometry=all_rows),
        ),
        ("text front", Placement(rope=TABLES["mv"], geometry=mv, num_text=3), None),
        ("text end", Placement(rope=TABLES["mv"], geometry=mv, num_text=3, text_at="end"), None),
        ("cross", plain, Placement(num_text=6)),
        ("no geometry", Placement(rope=TABLES["mv"]), None),
        ("no position", Placement(geometry=mv[:1]), None),
    ]


def lengths(name: str) -> tuple[int, int]:
    """Query and key rows of the case."""
    text = 3 if name.startswith("text") else 0
    q_len = UV if name == "uv over both" else MV + text
    return q_len, {"uv over both": MV + UV, "cross": 6}.get(name, q_len)


CASES = [case[0] for case in cases()]


def place(name: str) -> dict[str, Placement | None]:
    _, q, k = next(case for case in cases() if case[0] == name)
    return {"q_placement": q, "k_placement": k}


class PlainAttend:
    """Every step in the dtype of the inputs: the yardstick for fast kernels."""

    name = "plain"

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        return None

    def __call__(self, q, k, v, *, mask=None, scale=None):
        weights = (torch.einsum("bqnd,bknd->bnqk", q, k) * q.shape[3] ** -0.5).softmax(dim=-1)
        return torch.einsum("bnqk,bknd->bqnd", weights, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "order"), list(itertools.product(CASES, ORDERS)))
def test_matches_its_definition(assert_as_accurate, name: str, order: str, dtype) -> None:
    q_len, k_len = lengths(name)
    q, k, v = (x.to(dtype) for x in (rows(q_len), rows(k_len), rows(k_len)))
    where = place(name)
    exact = geo_attention_reference(
        q.double(), k.double(), v.double(), geometry_order=order, **where
    )
    plain = geo_attention(q, k, v, geometry_order=order, attend=PlainAttend(), **where)
    assert_as_accurate(geo_attention(q, k, v, geometry_order=order, **where), plain, exact)


@pytest.mark.parametrize(("name", "order"), list(itertools.product(CASES, ORDERS)))
def test_matches_its_definition_in_fp64(name: str, order: str) -> None:
    """Any difference is an error in a formula, not rounding."""
    q_len, k_len = lengths(name)
    q, k, v = (x.double() for x in (rows(q_len), rows(k_len), rows(k_len)))
    where = place(name)
    expected = geo_attention_reference(q, k, v, geometry_order=order, **where)
    ours = geo_attention(q, k, v, geometry_order=order, **where)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_definition_is_the_equation_of_the_paper() -> None:
    """Eq. 5-7 with complex numbers, one pair of rows at a time."""
    q, k, v = rows(MV).double(), rows(MV).double(), rows(MV).double()
    c = geometry(MV).double()
    table = TABLES["mv"]
    phase = torch.complex(table.cos.double(), table.sin.double())

    def turned(x: Tensor) -> Tensor:
        planes = torch.complex(x[..., 0::2], x[..., 1::2]) * phase[:, None]
        return torch.stack((planes.real, planes.imag), dim=-1).flatten(-2)

    for order in ORDERS:
        if order == "post_rope":
            q_rows, k_rows = turned(q) + c, turned(k) + c
        else:
            q_rows, k_rows = turned(q + c), turned(k + c)
        weights = (torch.einsum("bqnd,bknd->bnqk", q_rows, k_rows) / DIM**0.5).softmax(-1)
        expected = torch.einsum("bnqk,bknd->bqnd", weights, v)
        ours = geo_attention_reference(
            q, k, v, q_placement=Placement(rope=table, geometry=c), geometry_order=order
        )
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "order"), list(itertools.product(CASES, ORDERS)))
def test_gradients_match_the_definition(name: str, order: str) -> None:
    """fp64, so that any difference is an error in a formula; geometry included."""
    q_len, k_len = lengths(name)
    leaves = [rows(n).double().requires_grad_() for n in (q_len, k_len, k_len)]
    where = place(name)
    for key, placement in where.items():
        if placement is not None and placement.geometry is not None:
            leaf = placement.geometry.double().requires_grad_()
            leaves.append(leaf)
            where[key] = Placement(
                rope=placement.rope,
                geometry=leaf,
                num_text=placement.num_text,
                text_at=placement.text_at,
            )
    out_grad = rows(q_len).double()
    ours, plain = (
        torch.autograd.grad(run(*leaves[:3], geometry_order=order, **where), leaves, out_grad)
        for run in (geo_attention, geo_attention_reference)
    )
    for fast, slow in zip(ours, plain, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-11, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_zero_geometry_is_plain_attention_exactly(order: str) -> None:
    q, k, v = rows(MV), rows(MV), rows(MV)
    table = TABLES["mv"]
    zero = Placement(rope=table, geometry=torch.zeros(1, MV, HEADS, DIM))
    with_zero = geo_attention(q, k, v, q_placement=zero, geometry_order=order)
    without = geo_attention(q, k, v, q_placement=Placement(rope=table))
    assert torch.equal(with_zero, without)
    assert torch.equal(geo_attention(q, k, v), ATTENTION.get("sdpa")(q, k, v))


def test_text_rows_are_neither_moved_nor_turned() -> None:
    """Joint attention equals attention over rows prepared by hand."""
    q, k, v = rows(MV + 3), rows(MV + 3), rows(MV + 3)
    c = geometry(MV)
    for at in ("front", "end"):
        placement = Placement(rope=TABLES["mv"], geometry=c, num_text=3, text_at=at)
        text = slice(0, 3) if at == "front" else slice(MV, MV + 3)
        rest = slice(3, None) if at == "front" else slice(0, MV)
        ready = []
        for x in (q, k):
            x = x.clone()
            x[:, rest] = rotate_geometry(x[:, rest], TABLES["mv"]) + c
            assert torch.equal(x[:, text], (q if len(ready) == 0 else k)[:, text])
            ready.append(x)
        expected = attention_reference(*ready, v)
        ours = geo_attention(q, k, v, q_placement=placement)
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["reference", "sdpa", "sdpa_flash", "flex"])
def test_every_implementation_can_be_named(name: str) -> None:
    if name == "flex" and torch.__version__ < "2.7" and DIM.bit_count() > 1:
        pytest.skip("in torch 2.6 flex takes head dims that are powers of two")
    q, k, v = rows(MV), rows(MV), rows(MV)
    where = Placement(rope=TABLES["mv"], geometry=geometry(MV))
    ours = geo_attention(q, k, v, q_placement=where, attend=ATTENTION.get(name))
    expected = geo_attention_reference(q, k, v, q_placement=where)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_mask_is_honoured() -> None:
    q, k, v = rows(MV), rows(MV), rows(MV)
    mask = torch.rand(1, 1, MV, MV) > 0.5
    where = Placement(rope=TABLES["mv"], geometry=geometry(MV))
    ours = geo_attention(q, k, v, q_placement=where, mask=mask)
    expected = geo_attention_reference(q, k, v, q_placement=where, mask=mask)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def logits(order: str, offset: float, q: Tensor, k: Tensor, c: Tensor) -> Tensor:
    """Logits of texture queries over views and texture, frames counted from ``offset``."""
    tables = rope_table(TokenLayout.of([VIEWS, TEXTURE]), SPEC, temporal_offset=offset)

    def prepared(x: Tensor, rope: Rope, g: Tensor) -> Tensor:
        if order == "pre_rope":
            return rotate_geometry(x + g, rope)
        return rotate_geometry(x, rope) + g

    q_rows = prepared(q, tables["uv"], c[:, MV:])
    k_rows = prepared(k, Rope.cat([tables["mv"], tables["uv"]]), c)
    return torch.einsum("bqnd,bknd->bnqk", q_rows, k_rows) / DIM**0.5


def logits_change(order: str, shift: float, *, scale: float) -> float:
    """Largest change of a logit when all frames are counted ``shift`` later."""
    q, k, c = rows(UV).double(), rows(MV + UV).double(), scale * geometry(MV + UV).double()
    moved, still = logits(order, shift, q, k, c), logits(order, 0.0, q, k, c)
    return (moved - still).abs().max().item()


# fp32 tables: 24 products of values below 25, each off by 2^-24
TABLE_ROUNDING = 24 * 25 * 2**-24


@given(shift=st.integers(1, 50))
def test_released_order_does_not_care_where_counting_starts(shift: int) -> None:
    assert logits_change("pre_rope", shift, scale=1.0) < TABLE_ROUNDING


def test_paper_order_depends_on_where_counting_starts() -> None:
    """In the paper's order geometry meets the absolute rotation: 0-based is part of the model."""
    assert logits_change("post_rope", 1, scale=1.0) > 0.1
    assert logits_change("post_rope", 1, scale=0.0) < TABLE_ROUNDING


def test_bad_placements_are_refused() -> None:
    q = rows(MV)
    for where, message in (
        (Placement(rope=TABLES["uv"]), "B L N D"),
        (Placement(geometry=geometry(MV - 1)), "geometry: expected"),
        (Placement(rope=TABLES["mv"], num_text=1), "B L N D"),
        (Placement(num_text=MV + 1), "num_text"),
    ):
        with pytest.raises(UsageError, match=message):
            geo_attention(q, q, q, q_placement=where)
    with pytest.raises(UsageError, match="geometry_order"):
        geo_attention(q, q, q, geometry_order="before")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 or more"):
        Placement(num_text=-1)
    with pytest.raises(UsageError, match="'front' or 'end'"):
        Placement(text_at="middle")  # type: ignore[arg-type]


def test_some_rows_of_a_placement() -> None:
    where = Placement(rope=TABLES["uv"], geometry=geometry(UV))
    q, k, v = rows(UV), rows(UV), rows(UV)
    expected = geo_attention(q, k, v, q_placement=where)[:, 3:9]
    some = slice(3, 9)
    ours = geo_attention(q[:, some], k, v, q_placement=where.rows(some), k_placement=where)
    # each query row is independent; fp32 sums of UV products of order 1 in another blocking
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    assert Placement().rows(some).rope is None
    with pytest.raises(UsageError, match="num_text"):
        Placement(num_text=1).rows(some)
