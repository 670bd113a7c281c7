"""Geo-Attention as a layer: what it starts as, what it computes, what it refuses."""

import copy

import pytest
import torch
from geo_attention_inputs import DIM, HEADS, MV, ORDERS, TABLES, UV, G
from torch import Tensor

from seqtex_core.attention.geo_attention import (
    GeoAttention,
    GeoAttentionConfig,
    Placement,
    geo_attention_reference,
)
from seqtex_core.errors import UsageError
from seqtex_core.rope import Rope


def make_layer(**options: object) -> GeoAttention:
    config = {"dim": HEADS * DIM, "num_heads": HEADS, "geometry_dim": G} | options
    return GeoAttention(GeoAttentionConfig(**config))


def open_caster(layer: GeoAttention) -> GeoAttention:
    """Give the caster weights, as training would."""
    torch.nn.init.normal_(layer.geometry_caster.weight, std=0.5)
    torch.nn.init.normal_(layer.geometry_caster.bias, std=0.5)
    return layer


def test_a_new_layer_ignores_geometry_exactly() -> None:
    layer, x = make_layer(), torch.randn(2, MV, HEADS * DIM)
    with_geometry = Placement(rope=TABLES["mv"], geometry=torch.randn(2, MV, G))
    assert torch.equal(
        layer(x, placement=with_geometry), layer(x, placement=Placement(rope=TABLES["mv"]))
    )


def test_a_new_layer_learns_geometry_at_once() -> None:
    """A caster that starts at zero still gets a gradient."""
    layer, x = make_layer(), torch.randn(2, MV, HEADS * DIM)
    embedding = torch.randn(2, MV, G)
    out = layer(x, placement=Placement(rope=TABLES["mv"], geometry=embedding))
    out.pow(2).sum().backward()
    assert layer.geometry_caster.weight.grad.abs().max() > 0


@pytest.mark.parametrize("norm", ["rms inner", "rms head", "layer head", "layer inner", None])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_text", [0, 3])
def test_layer_is_projections_norms_and_the_definition(norm, order: str, num_text: int) -> None:
    kind, scope = (None, "inner") if norm is None else norm.split()
    layer = open_caster(
        make_layer(qk_norm=kind, qk_norm_scope=scope, geometry_order=order)
    ).double()
    x = torch.randn(2, MV + num_text, HEADS * DIM, dtype=torch.float64)
    embedding = torch.randn(2, MV, G, dtype=torch.float64)
    where = {"rope": TABLES["mv"], "num_text": num_text, "text_at": "end"}
    for parameter in (p for name, p in layer.named_parameters() if name.startswith("norm_")):
        torch.nn.init.uniform_(parameter, 0.5, 1.5)  # q and k differ

    def heads(y: Tensor, normalise: torch.nn.Module | None) -> Tensor:
        if normalise is not None and scope == "inner":
            return normalise(y).unflatten(2, (HEADS, DIM))
        y = y.unflatten(2, (HEADS, DIM))
        return y if normalise is None else normalise(y)

    c = layer.geometry_caster(embedding).unflatten(2, (HEADS, DIM))
    expected = geo_attention_reference(
        heads(layer.to_q(x), layer.norm_q),
        heads(layer.to_k(x), layer.norm_k),
        heads(layer.to_v(x), None),
        q_placement=Placement(geometry=c, **where),
        geometry_order=order,
    )
    ours = layer(x, placement=Placement(geometry=embedding, **where))
    torch.testing.assert_close(ours, layer.to_out(expected.flatten(2)), atol=1e-12, rtol=0)


def test_texture_rows_attend_to_views_and_themselves() -> None:
    """Queries and keys of different lengths; the branches share one caster."""
    layer = open_caster(make_layer())
    mv, uv = torch.randn(2, MV, HEADS * DIM), torch.randn(2, UV, HEADS * DIM)
    embedding = torch.randn(2, MV + UV, G)
    both = Rope.cat([TABLES["mv"], TABLES["uv"]])
    out = layer(
        uv,
        placement=Placement(rope=TABLES["uv"], geometry=embedding[:, MV:]),
        context=torch.cat((mv, uv), dim=1),
        context_placement=Placement(rope=both, geometry=embedding),
    )
    joint = layer(torch.cat((mv, uv), dim=1), placement=Placement(rope=both, geometry=embedding))
    # the same rows of joint self-attention; values below 4, fp32
    torch.testing.assert_close(out, joint[:, MV:], atol=5e-6, rtol=0)


def test_cross_attention_to_text_of_another_width() -> None:
    layer = open_caster(make_layer(context_dim=7))
    x, text = torch.randn(2, MV, HEADS * DIM), torch.randn(2, 4, 7)
    where = Placement(rope=TABLES["mv"], geometry=torch.randn(2, MV, G))
    assert layer(x, placement=where, context=text).shape == x.shape
    mask = torch.tensor([True, True, False, False])[None, None, None]
    short = layer(x, placement=where, context=text[:, :2])
    # masked keys weigh nothing; values below 4, fp32
    masked = layer(x, placement=where, context=text, mask=mask)
    torch.testing.assert_close(masked, short, atol=2e-6, rtol=0)


def test_cast_geometry_may_be_kept_over_the_steps() -> None:
    layer, x = open_caster(make_layer()), torch.randn(2, MV, HEADS * DIM)
    embedding = torch.randn(2, MV, G)
    cached = Placement(rope=TABLES["mv"], geometry=layer.cast_geometry(embedding))
    fresh = Placement(rope=TABLES["mv"], geometry=embedding)
    assert torch.equal(layer(x, placement=cached), layer(x, placement=fresh))


def test_layer_traces_into_one_graph_with_gradients() -> None:
    layer, x = open_caster(make_layer()), torch.randn(2, MV + 3, HEADS * DIM)
    where = Placement(rope=TABLES["mv"], geometry=torch.randn(2, MV, G), num_text=3)
    traced = torch.compile(lambda y: layer(y, placement=where), backend="aot_eager", fullgraph=True)
    eager = torch.autograd.grad(layer(x, placement=where).sum(), list(layer.parameters()))
    graph = torch.autograd.grad(traced(x).sum(), list(layer.parameters()))
    for ours, expected in zip(graph, eager, strict=True):
        limit = 1e-5 * max(1.0, expected.abs().max().item())  # sums over 78 rows in fp32
        torch.testing.assert_close(ours, expected, atol=limit, rtol=0)


def test_layer_in_bfloat16_and_copied() -> None:
    layer, x = open_caster(make_layer()), torch.randn(2, MV, HEADS * DIM)
    where = Placement(rope=TABLES["mv"], geometry=torch.randn(2, MV, G))
    exact = layer(x, placement=where)
    half = copy.deepcopy(layer).bfloat16()
    low = Placement(rope=TABLES["mv"], geometry=where.geometry.bfloat16())
    out = half(x.bfloat16(), placement=low)
    assert out.dtype == torch.bfloat16
    # inputs, weights and each of five products rounded to 2^-9 of values below 3
    torch.testing.assert_close(out.float(), exact, atol=0.06, rtol=0)


def test_bad_layers_and_inputs_are_refused() -> None:
    for options, message in (
        ({"num_heads": 5}, "a divisor of 48"),
        ({"dim": 0}, "positive"),
        ({"qk_norm": "batch"}, "'rms', 'layer' or None"),
        ({"qk_norm_scope": "all"}, "'inner' or 'head'"),
        ({"geometry_order": "before"}, "geometry_order"),
        ({"attention": "sdpaa"}, "Did you mean"),
    ):
        with pytest.raises(UsageError, match=message):
            make_layer(**options)
    x = torch.randn(2, MV, HEADS * DIM)
    embedding = Placement(geometry=torch.randn(2, MV, G))
    with pytest.raises(UsageError, match="geometry_dim is 0"):
        make_layer(geometry_dim=0)(x, placement=embedding)
    with pytest.raises(UsageError, match=r"geometry: expected \[B L G\]"):
        make_layer(geometry_dim=G + 1)(x, placement=embedding)
    with pytest.raises(UsageError, match="hidden_states"):
        make_layer()(x[..., 1:])
    with pytest.raises(UsageError, match="context"):
        make_layer()(x, context=torch.randn(2, 4, 7))
