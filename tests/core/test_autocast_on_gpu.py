"""The fused kernels under autocast on a real GPU: chosen, and as near to fp64 as the plain form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import tuning, using_kernels
from seqtex_core.modulation import RowNorm, residual_norm
from seqtex_core.query_key import QKNorm, qk_prep
from seqtex_core.rope import Rope

pytestmark = pytest.mark.gpu
HEADS, DIM, ROWS = 12, 128, 300
WIDTH = HEADS * DIM
DTYPES = [torch.bfloat16, torch.float16]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape).cuda()


def relative(got: Tensor, exact: Tensor) -> float:
    return float((got.detach().double() - exact.detach()).norm() / exact.detach().norm())


def sublayer(leaves: list[Tensor], rope: Rope, rows: StreamLayout) -> tuple[Tensor, Tensor]:
    """A projection whose rows are prepared for attention, added, and normalised for the next."""
    x, projection, weight, geometry, gate, factor, shift = leaves
    query = qk_prep(
        x @ projection, QKNorm(weight=weight), num_heads=HEADS, rope=rope, geometry=geometry
    )
    norm = RowNorm(factor, shift, 1e-6)
    return residual_norm(x, query.flatten(2), rows, gate=gate, norm=norm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow_stream", [False, True])
def test_auto_runs_fused_and_loses_no_more_than_the_plain_form(
    dtype: torch.dtype, narrow_stream: bool
) -> None:
    """Twice what the plain form loses, gradients three times, as in every fast form."""
    group = FrameGroup(name="views", stream="mv", grid=Grid(frames=2, height=20, width=20))
    rows = StreamLayout(groups=(group,), frame_lengths=(100, 200), group_lengths=(ROWS,))
    angles = drawn(ROWS, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin())
    x = drawn(2, ROWS, WIDTH).to(dtype)
    leaves = [
        x if narrow_stream else x.float(),
        drawn(WIDTH, WIDTH) * WIDTH**-0.5,
        1 + 0.1 * drawn(WIDTH),
        drawn(1, ROWS, HEADS, DIM),
        *(drawn(2, 2, WIDTH) for _ in range(3)),
    ]
    incoming = [drawn(2, ROWS, WIDTH).to(leaves[0].dtype) for _ in range(2)]
    results: list[tuple[Tensor, ...]] = []
    for kernels, exact in (("auto", False), ("plain", False), ("plain", True)):
        own = [t.double() if exact else t.clone() for t in leaves]
        own = [t.requires_grad_() for t in own]
        autocast = torch.autocast("cuda", dtype, enabled=not exact)
        with autocast, using_kernels(kernels), tuning.watched_launches() as seen:
            out = sublayer(own, rope, rows)
        assert {one.kernel for one in seen} == (
            {"prepare_forward", "residual_norm_forward"} if kernels == "auto" else set()
        )
        found = torch.autograd.grad(out, own, [g.to(out[0].dtype) for g in incoming])
        results.append((*out, *found))
    for index, (fast, plain, truth) in enumerate(zip(*results, strict=True)):
        assert fast.dtype == plain.dtype
        floor = torch.finfo(fast.dtype).eps
        limit = max((2 if index < 2 else 3) * relative(plain, truth), floor)
        assert relative(fast, truth) <= limit, index
