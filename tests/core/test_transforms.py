"""Transforms of ``torch.func`` and forward-mode derivatives through the blocks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from seqtex_backbones.registry import load_backbone
from seqtex_core.attention.geo_attention import GeoAttention, GeoAttentionConfig, Placement
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UnsupportedError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.kernels import list_kernels, using_kernels
from seqtex_core.kernels.choose import kernels_for
from seqtex_core.rope import RopeSpec, rope_table
from seqtex_core.transformer import SeqTexTransformer

SIZES = {"views": (2, 4, 4), "texture": (1, 8, 8)}


def attention() -> GeoAttention:
    layer = GeoAttention(GeoAttentionConfig(dim=16, num_heads=2, geometry_dim=3)).double()
    assert layer.geometry_caster is not None
    torch.nn.init.normal_(layer.geometry_caster.weight)
    return layer.requires_grad_(False)


def placed(geometry: Tensor) -> Placement:
    group = FrameGroup(name="views", stream="mv", grid=Grid(frames=2, height=2, width=2))
    rope = rope_table(TokenLayout.of([group]), RopeSpec(axis_dims=(4, 2, 2)))["mv"]
    return Placement(rope=rope, geometry=geometry)


def test_attention_is_mapped_over_samples() -> None:
    layer = attention()
    x, geometry = torch.randn(3, 1, 8, 16).double(), torch.randn(3, 1, 8, 3).double()
    want = torch.stack([layer(a, placement=placed(g)) for a, g in zip(x, geometry, strict=True)])
    got = vmap(lambda a, g: layer(a, placement=placed(g)))(x, geometry)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)  # numbers of order 1 in fp64
    one = vmap(lambda g: layer(x[0], placement=placed(g)))(geometry)  # rows that are not mapped
    torch.testing.assert_close(one[0], want[0], rtol=0, atol=1e-14)


def test_forward_derivatives_are_those_of_differences() -> None:
    layer, step = attention(), 1e-5
    x, along, geometry = (torch.randn(1, 8, n).double() for n in (16, 16, 3))

    def run(rows: Tensor) -> Tensor:
        made: Tensor = layer(rows, placement=placed(geometry))
        return made

    difference = (run(x + step * along) - run(x - step * along)) / (2 * step)
    out, derivative = jvp(run, (x,), (along,))[:2]
    torch.testing.assert_close(out, run(x), rtol=0, atol=1e-14)
    # the difference is off by step^2 and by 1e-16 / step
    torch.testing.assert_close(derivative, difference, rtol=0, atol=1e-8)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x, along)))
    torch.testing.assert_close(dual.tangent, derivative, rtol=0, atol=1e-14)


@pytest.mark.parametrize("with_grad", [False, True])
def test_a_whole_model_is_mapped_and_derived(with_grad: bool) -> None:
    model = SeqTexTransformer(load_backbone("wan-tiny", seed=0), DecoupledConfig(lora_rank=2))
    model.requires_grad_(False)
    layout = model.layout(SIZES, {"views": "mv", "texture": "uv"})
    maps = {
        name: GeometryLatents(position=torch.randn(1, 16, *size), normal=torch.randn(1, 16, *size))
        for name, size in SIZES.items()
    }
    latents = {name: torch.randn(2, 1, 16, *size) for name, size in SIZES.items()}
    levels = {name: torch.rand(2, 1, size[0]) for name, size in SIZES.items()}
    with torch.set_grad_enabled(with_grad):
        cache = model.prepare(layout, geometry=maps)

        def run(x: Mapping[str, Tensor], s: Mapping[str, Tensor]) -> Tensor:
            velocity: Tensor = model(x, s, cache)["texture"]
            return velocity

        first, level = ({n: v[0] for n, v in given.items()} for given in (latents, levels))
        want = run(first, level)
        got = vmap(run)(latents, levels)
        torch.testing.assert_close(got[0], want, rtol=0, atol=4e-6)  # eager against plain kernels
        out, derivative = jvp(lambda x: run(x, level), (first,), (first,))[:2]
        torch.testing.assert_close(out, want, rtol=0, atol=4e-6)
        assert float(derivative.abs().max()) > 1e-3
        assert torch.equal(run(first, level), want)  # nothing that was kept is of a transform


def test_gradients_of_every_sample() -> None:
    layer = attention()
    x, geometry = torch.randn(3, 1, 8, 16).double(), torch.randn(1, 8, 3).double()
    weights: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(given: dict[str, Tensor], rows: Tensor) -> Tensor:
        made: Tensor = functional_call(layer, given, (rows,), {"placement": placed(geometry)})
        return made.square().mean()

    got = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    layer.requires_grad_(True)
    layer(x[1], placement=placed(geometry)).square().mean().backward()
    assert layer.to_q.weight.grad is not None
    torch.testing.assert_close(got["to_q.weight"][1], layer.to_q.weight.grad, rtol=0, atol=1e-14)


def test_kernels_say_why_they_do_not_run_inside() -> None:
    def inside(x: Tensor) -> Tensor:
        assert kernels_for("norm", x, 8).name == "plain"
        assert "torch.func" in str(dict(list_kernels("cpu"))["eager"])
        with using_kernels("eager"), pytest.raises(UnsupportedError, match=r"torch\.func"):
            kernels_for("norm", x, 8)
        return x

    vmap(inside)(torch.randn(2, 1, 3, 8))
    assert dict(list_kernels("cpu"))["eager"] is None
