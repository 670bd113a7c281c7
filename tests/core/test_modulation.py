"""Per-frame modulation: uniform and ragged rows, dtypes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import eager
from seqtex_core.modulation import RowNorm, gated_residual, modulate, per_frame, residual_norm


def rows_of(lengths: list[int]) -> StreamLayout:
    grid = Grid(frames=len(lengths), height=8, width=8)
    group = FrameGroup(name="views", stream="mv", grid=grid)
    return StreamLayout(
        groups=(group,), frame_lengths=tuple(lengths), group_lengths=(sum(lengths),)
    )


def spread(values: Tensor, lengths: list[int]) -> Tensor:
    """Per-frame rows repeated for every token: what must never be built at full size."""
    return values.repeat_interleave(torch.tensor(lengths), dim=1)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any))
def test_ragged_and_uniform_frames_equal_spreading(lengths: list[int]) -> None:
    rows = rows_of(lengths)
    x = torch.randn(2, sum(lengths), 6)
    shift, scale = torch.randn(2, len(lengths), 6), torch.randn(2, len(lengths), 6)
    expected = x * (1 + spread(scale, lengths)) + spread(shift, lengths)
    assert torch.equal(modulate(x, shift, scale, rows), expected)
    gated = gated_residual(x, x.sin(), scale, rows)
    # A fused multiply-add rounds once where two operations round twice: an ulp of values up to 16.
    assert torch.allclose(gated, x + x.sin() * spread(scale, lengths), rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[0, 2], [2, 0, 1, 1], [1, 3, 0], [1, 1], [3, 3]])
def test_whole_tensors_with_as_many_frames_as_rows(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form without pieces must not take a value per frame for one per row."""
    monkeypatch.setattr(eager, "_in_pieces", lambda x: False)
    rows = rows_of(lengths)
    x = torch.randn(2, sum(lengths), 6)
    shift, scale = torch.randn(2, len(lengths), 6), torch.randn(2, len(lengths), 6)
    normed = functional.layer_norm(x, (6,), eps=1e-6)
    wanted = normed * spread(scale, lengths) + spread(shift, lengths)
    made = eager.modulated_norm(x, shift, scale, rows, eps=1e-6)
    assert torch.allclose(made, wanted, rtol=0, atol=2e-6)  # two ulps of values up to 16
    gated = eager.gated_residual(x, x.sin(), scale, rows)
    assert torch.allclose(gated, x + x.sin() * spread(scale, lengths), rtol=0, atol=2e-6)


def test_equal_frames_never_build_one_row_per_token() -> None:
    seen: list[tuple[int, ...]] = []

    def watch(x: Tensor, value: Tensor) -> Tensor:
        seen.append(tuple(value.shape))
        return x * value

    per_frame(watch, rows_of([5, 5, 5]), torch.randn(1, 15, 4), torch.randn(1, 3, 4))
    assert seen == [(1, 3, 1, 4)]


def test_residual_is_summed_in_fp32_and_rounded_once() -> None:
    """1 + 2^-9 is lost in bf16, but two of them summed with the gate in fp32 are not."""
    x = torch.ones(1, 2, 1, dtype=torch.bfloat16)
    update = torch.full((1, 2, 1), 2.0**-9, dtype=torch.bfloat16)
    gate = torch.full((1, 1, 1), 3.0)
    out = gated_residual(x, update, gate, rows_of([2]))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, torch.full_like(x, 1 + 2.0**-7))


def test_gradients_reach_the_modulation() -> None:
    shift, scale = torch.zeros(1, 2, 3, requires_grad=True), torch.ones(1, 2, 3, requires_grad=True)
    x = torch.randn(1, 5, 3)
    modulate(x, shift, scale, rows_of([2, 3])).sum().backward()
    assert shift.grad is not None
    assert scale.grad is not None
    assert torch.equal(shift.grad[0, :, 0], torch.tensor([2.0, 3.0]))
    expected = torch.stack([x[0, :2].sum(0), x[0, 2:].sum(0)])
    assert torch.allclose(scale.grad[0], expected, atol=1e-6)  # sums of 3 in another order


@pytest.mark.parametrize("name", ["update", "gate", "factor", "shift", "weights", "samples"])
def test_what_does_not_fit_is_refused_before_a_kernel_reads_behind_it(name: str) -> None:
    x, update = torch.randn(2, 2, 5, 4)
    gate, factor, shift = torch.randn(3, 2, 2, 4)
    given = {"update": update[:1], "gate": gate[:, :1], "factor": factor[..., :3]}
    given |= {"shift": shift[0], "samples": torch.randn(3, 2, 4)}
    wrong = given.get(name, torch.randn(5))
    norm = RowNorm(factor, shift, 1e-6)
    if name in ("factor", "shift"):
        norm = norm._replace(**{name: wrong})
    elif name == "weights":
        norm = RowNorm(wrong, wrong, 1e-6)
    update, gate = (wrong if name == n else t for n, t in (("update", update), ("gate", gate)))
    gate = wrong if name == "samples" else gate
    with pytest.raises(UsageError, match=r"expected \[(B .* D|D)\]"):
        residual_norm(x, update, rows_of([2, 3]), gate=gate, norm=norm)
