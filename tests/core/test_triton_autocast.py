"""The Triton kernels under autocast, as training in bf16 runs them, in Triton's interpreter."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import load_backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UnsupportedError
from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import triton_residual, using_kernels
from seqtex_core.kernels.choose import KERNELS, FusedKernels, KernelInputs, kernels_for
from seqtex_core.kernels.triton_backend import TritonKernels
from seqtex_core.modulation import RowNorm, gated_residual, normed_rows, residual_norm
from seqtex_core.query_key import qk_prep
from seqtex_core.rope import Rope
from seqtex_core.transformer import SeqTexTransformer

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="needs the package triton (extra dev)"
    ),
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="with a GPU the kernels are not interpreted"
    ),
]
INTERPRETED = TritonKernels(interpreted=True)
SIDE, HEADS, DIM = 4, 2, 16
WIDTH = HEADS * DIM


@contextmanager
def cast(dtype: torch.dtype, kernels: str | FusedKernels) -> Iterator[None]:
    with torch.autocast("cpu", dtype), using_kernels(kernels):
        yield


def distance(got: Tensor, exact: Tensor) -> float:
    got, exact = got.detach().double(), exact.detach().double()
    return float((got - exact).norm() / exact.norm())


@pytest.fixture(scope="module")
def block() -> SeqTexTransformer:
    """One MUV block of the Wan kind, all of its MV branch trained, too; no weight is 0 or 1."""
    sizes = {
        "num_attention_heads": HEADS,
        "attention_head_dim": DIM,
        "num_layers": 1,
        "ffn_dim": 2 * WIDTH,
        "text_dim": WIDTH,
        "text_length": 3,
    }
    entry = entry_from_config({"name": "one block", "architecture": "wan", "config": sizes})
    model = SeqTexTransformer(load_backbone(entry, seed=0), DecoupledConfig(mv_train="full"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


@pytest.fixture(scope="module")
def exact(block: SeqTexTransformer) -> dict[str, Tensor]:
    with using_kernels("plain"):
        return step(copy.deepcopy(block).double())


def step(model: SeqTexTransformer) -> dict[str, Tensor]:
    """Velocities and gradients, by name; forward under autocast where it is on, backward never."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)

    groups = {"views": "mv", "texture": "uv"}
    latents = {n: drawn(1, model.spec.latent_channels, 1, SIDE, SIDE) for n in groups}
    layout = model.layout(dict.fromkeys(groups, (1, SIDE, SIDE)), groups)  # type: ignore[arg-type]
    sigmas = {n: torch.full((1, 1), 0.5, dtype=dtype) for n in groups}
    out = model(latents, sigmas, model.prepare(layout, text=drawn(1, 3, WIDTH)))
    loss = torch.stack([(x * drawn(*x.shape)).sum() for x in out.values()]).sum()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.autocast("cpu", enabled=False):
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    gradients = {n: g for n, g in zip(trained, found, strict=True) if g is not None}
    assert all(g.dtype == trained[n].dtype for n, g in gradients.items())
    return {**out, **gradients}


@pytest.mark.parametrize(
    ("dtype", "together", "each"),
    [(torch.float16, 1.1, 2.0), (torch.bfloat16, 2.0, 4.0)],
)
def test_a_block_and_its_gradients_lose_no_more_than_in_the_plain_form(
    block: SeqTexTransformer,
    exact: dict[str, Tensor],
    dtype: torch.dtype,
    together: float,
    each: float,
) -> None:
    """fp16: the same roundings of the same sums, in another order: the error of all is the same.

    That of one tensor is a draw, which may be twice another. bf16: the interpreter truncates, where
    a GPU and the plain form round to the nearest, which doubles the errors.
    """
    with cast(dtype, "plain"):
        plain = step(block)
    with cast(dtype, INTERPRETED):
        fused = step(block)
    assert len(exact) > 50
    total, ours = (
        distance(*(torch.cat([x[n].flatten().double() for n in exact]) for x in (some, exact)))
        for some in (plain, fused)
    )
    assert total < 0.02, "the plain form itself is a fair measure"
    assert ours < together * total
    for name, want in exact.items():
        assert fused[name].dtype == plain[name].dtype, name
        limit = each * max(distance(plain[name], want), total)
        assert distance(fused[name], want) < limit, name


def test_sums_of_gradients_are_not_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where backward is asked for under autocast, which PyTorch advises against."""
    cast_sums = []

    def watched(*inputs: Any, **options: Any) -> Tensor:
        cast_sums.append(torch.is_autocast_enabled("cpu"))
        return real(*inputs, **options)

    real = triton_residual._summed
    monkeypatch.setattr(triton_residual, "_summed", watched)
    x = torch.randn(1, 5, WIDTH).bfloat16()
    factor, shift = (torch.randn(1, 2, WIDTH, requires_grad=True) for _ in range(2))
    with cast(torch.bfloat16, INTERPRETED):
        normed = normed_rows(x, RowNorm(factor, shift, 1e-6), _rows())
        torch.autograd.grad(normed, (factor, shift), normed.detach())
    assert cast_sums == [False, False]


def _rows() -> StreamLayout:
    group = FrameGroup(name="views", stream="mv", grid=Grid(frames=2, height=8, width=8))
    return StreamLayout(groups=(group,), frame_lengths=(2, 3), group_lengths=(5,))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("wide_stream", [False, True])
def test_streams_and_updates_of_different_dtypes(gated: bool, wide_stream: bool) -> None:
    """The sum has the stream's dtype and every gradient its tensor's; fp32 ones are exact."""
    rows, generator = _rows(), torch.Generator().manual_seed(0)
    narrow = torch.float16  # whose roundings the interpreter makes as a GPU does
    dtypes = (torch.float32, narrow) if wide_stream else (narrow, torch.float32)
    x, update = (torch.randn(1, 5, WIDTH, generator=generator).to(dtype) for dtype in dtypes)
    levels = torch.randn(3, 1, 2, WIDTH, generator=generator)
    incoming = torch.randn(2, 1, 5, WIDTH, generator=generator).to(x.dtype)
    results = {}
    for kernels in ("plain", INTERPRETED):
        leaves = [t.clone().requires_grad_() for t in (x, update, *levels)]
        stream, added, gate, factor, shift = leaves
        with cast(narrow, kernels):
            norm = RowNorm(factor, shift, 1e-5)
            out = residual_norm(stream, added, rows, gate=gate if gated else None, norm=norm)
            if gated:
                out = (gated_residual(stream, added, gate, rows), out[1])
        assert [o.dtype for o in out] == [x.dtype] * 2
        asked = [t for t in leaves if gated or t is not gate]
        found = torch.autograd.grad(out, asked, list(incoming))
        assert [g.dtype for g in found] == [t.dtype for t in asked]
        results[str(kernels)] = (*out, *found)
    for got, want in zip(*results.values(), strict=True):
        # a rounding of either, where what was rounded differs by one of fp32
        assert distance(got, want) < (2e-6 if got.dtype == torch.float32 and wide_stream else 2e-3)


def test_wide_geometry_has_wide_gradients() -> None:
    """Rows are rounded to fp16; gradients, summed over samples, are not: a few fp32 roundings."""
    angles = torch.randn(3, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin())
    x = torch.randn(2, 3, WIDTH).half()
    geometry = torch.randn(1, 3, HEADS, DIM, requires_grad=True)
    incoming = torch.randn(2, 3, HEADS, DIM).half()
    for order in ("pre_rope", "post_rope"):
        found: list[Tensor] = []
        for kernels in (INTERPRETED, "plain"):
            with cast(torch.float16, kernels):
                options = {"num_heads": HEADS, "rope": rope, "geometry_order": order}
                out = qk_prep(x, geometry=geometry, **options)  # type: ignore[arg-type]
            assert out.dtype == x.dtype
            found += torch.autograd.grad(out, geometry, incoming)
        assert distance(*found) < 1e-6


def test_on_a_cpu_autocast_gets_the_plain_form() -> None:
    x = torch.randn(1, 3, WIDTH)
    with torch.no_grad(), cast(torch.bfloat16, "auto"):
        assert kernels_for("norm", x, WIDTH).name == "plain"
    assert kernels_for("norm", x, WIDTH).name == "eager"
    with (
        torch.no_grad(),
        cast(torch.bfloat16, "eager"),
        pytest.raises(UnsupportedError, match="leaves autocast to 'plain'"),
    ):
        kernels_for("norm", x, WIDTH)


def test_on_a_gpu_autocast_gets_the_fused_kernels() -> None:
    inputs = KernelInputs(
        operation="norm",
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        width=1536,
        needs_grad=True,
        autocast=True,
    )
    assert KERNELS.get("triton").reason_unsupported(inputs) is None
