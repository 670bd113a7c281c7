"""Attention implementations against the definition: values, gradients, masks, bad inputs."""

from collections.abc import Callable

import pytest
import torch
from attention_inputs import ALL, CPU, CUDA, RUNS_ON_CPU, make_mask, make_qkv, plain_attention
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqtex_core.attention import (
    ATTENTION,
    AUTO_ORDER,
    AttentionInputs,
    attention_reference,
    choose_attention,
    chunked,
)
from seqtex_core.attention.flex import MAX_CPU_SCORES
from seqtex_core.errors import UnsupportedError, UsageError


def test_reference_is_softmax_attention() -> None:
    q, k, v = (x.double() for x in make_qkv(5, 7))
    mask = make_mask("bool", 5, 7)
    expected = torch.empty_like(q)
    for b in range(2):
        for n in range(3):
            for i in range(5):
                weights = [
                    (q[b, i, n] @ k[b, j, n] * 0.3).exp() if mask[b, 0, i, j] else 0.0
                    for j in range(7)
                ]
                total = sum(weights)
                expected[b, i, n] = sum(w / total * v[b, j, n] for j, w in enumerate(weights))
    ours = attention_reference(q, k, v, mask=mask, scale=0.3)
    torch.testing.assert_close(ours, expected, atol=1e-14, rtol=1e-13)


def test_reference_computes_in_fp32_and_rounds_once() -> None:
    q, k, v = (x.bfloat16() for x in make_qkv(5, 7))
    wide = attention_reference(q.float(), k.float(), v.float())
    assert torch.equal(attention_reference(q, k, v), wide.bfloat16())


@given(seed=st.integers(0, 500), shift=st.floats(-30, 30))
def test_output_is_an_average_that_ignores_a_common_key_shift(seed: int, shift: float) -> None:
    torch.manual_seed(seed)
    q, k, v = (x.double() for x in make_qkv(3, 6))
    out = attention_reference(q, k, v)
    assert (out <= v.amax(dim=1, keepdim=True) + 1e-12).all()
    assert (out >= v.amin(dim=1, keepdim=True) - 1e-12).all()
    # the same vector on every key adds a constant to every logit of a query
    torch.testing.assert_close(attention_reference(q, k + shift, v), out, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("lengths", [(1, 1), (63, 127), (127, 1), (1000, 63)])
@pytest.mark.parametrize("name", RUNS_ON_CPU)
def test_forward_matches_the_reference(assert_as_accurate, name, lengths, dtype) -> None:
    q, k, v = (x.to(dtype) for x in make_qkv(*lengths))
    exact = attention_reference(q.double(), k.double(), v.double())
    ours = ATTENTION.get(name)(q, k, v)
    assert_as_accurate(ours, plain_attention(q, k, v), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_of_queries(
    monkeypatch: pytest.MonkeyPatch, assert_as_accurate, dtype: torch.dtype
) -> None:
    """Several chunks, the last one not full, of several heads and samples; never by itself."""
    q, k, v = (x.to(dtype) for x in make_qkv(150, 70))
    monkeypatch.setattr(chunked, "SCORES", 1)  # chunks of 64
    exact = attention_reference(q.double(), k.double(), v.double())
    assert_as_accurate(ATTENTION.get("chunked")(q, k, v), plain_attention(q, k, v), exact)
    assert "chunked" not in AUTO_ORDER
    with pytest.raises(UnsupportedError, match="takes no mask"):
        ATTENTION.get("chunked")(q, k, v, mask=make_mask("bool", 150, 70))


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
@pytest.mark.parametrize("name", ["sdpa", "flex"])
def test_mask_and_scale_are_honoured(name: str, kind: str) -> None:
    q, k, v = make_qkv(9, 11)
    mask = make_mask(kind, 9, 11)
    ours = ATTENTION.get(name)(q, k, v, mask=mask, scale=0.7)
    # averages of values below 4 with 11 weights: a few fp32 roundings of 2.4e-7
    expected = attention_reference(q, k, v, mask=mask, scale=0.7)
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["reference", "sdpa", "flex"])
def test_a_query_that_sees_nothing_gets_zeros(name: str) -> None:
    q, k, v = make_qkv(4, 5)
    mask = torch.ones(1, 1, 4, 5, dtype=torch.bool)
    mask[:, :, 2] = False
    for given_mask in (mask, torch.zeros(1, 1, 4, 5).masked_fill(~mask, -torch.inf)):
        out = ATTENTION.get(name)(q, k, v, mask=given_mask)
        assert torch.equal(out[:, 2], torch.zeros_like(out[:, 2]))
        assert out.isfinite().all()


@pytest.mark.parametrize("name", ["reference", "sdpa", "sdpa_flash"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_match_the_reference(assert_as_accurate, name: str, dtype: torch.dtype) -> None:
    qkv = make_qkv(63, 65)
    out_grad = torch.randn(2, 63, 3, 8).to(dtype)

    def gradients(run: Callable[..., Tensor], wanted: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.to(dtype).to(wanted).requires_grad_() for x in qkv]
        return torch.autograd.grad(run(*leaves), leaves, out_grad.to(wanted))

    ours = gradients(ATTENTION.get(name), dtype)
    plain = gradients(plain_attention, dtype)
    exact = gradients(attention_reference, torch.float64)
    for fast, slow, true in zip(ours, plain, exact, strict=True):
        assert_as_accurate(fast, slow, true, factor=3)


@pytest.mark.parametrize("name", RUNS_ON_CPU)
def test_non_contiguous_inputs(name: str) -> None:
    packed = torch.randn(2, 3, 9, 3 * 8)
    q, k, v = (x.transpose(1, 2) for x in packed.chunk(3, dim=-1))
    expected = attention_reference(q, k, v)
    torch.testing.assert_close(ATTENTION.get(name)(q, k, v), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["reference", "sdpa", "auto"])
def test_traces_into_one_graph(name: str) -> None:
    attend = choose_attention(name)
    q, k, v = make_qkv(9, 11)
    traced = torch.compile(lambda *x: attend(*x), backend="eager", fullgraph=True)
    assert torch.equal(traced(q, k, v), attend(q, k, v))


def test_flex_on_cpu_says_what_it_cannot_do() -> None:
    q, k, v = make_qkv(3, 4)
    with pytest.raises(UnsupportedError, match="no gradients on CPU"):
        ATTENTION.get("flex")(q.requires_grad_(), k, v)
    with torch.no_grad():
        ATTENTION.get("flex")(q, k, v)
    inputs = AttentionInputs(device=CPU, num_heads=24, query_length=8192, key_length=4096)
    reason = ATTENTION.get("flex").reason_unsupported(inputs)
    assert str(24 * 8192 * 4096) in reason
    assert str(MAX_CPU_SCORES) in reason


def test_tensors_that_do_not_fit_are_refused() -> None:
    q, k, v = make_qkv(3, 4)
    attend = ATTENTION.get("reference")
    for bad, message in (
        ((q[0], k, v), r"q: expected \[B Lq N D\]"),
        ((q, k[:1], v), r"k: expected \[B Lk N D\] = \[2, any, 3, 8\], got \[1, 4, 3, 8\]"),
        ((q, k, v[:, :3]), r"v: expected \[B Lk N D\] = \[2, 4, 3, 8\], got \[2, 3, 3, 8\]"),
        ((q, k[:, :0], v[:, :0]), "at least one key"),
        ((q, k.bfloat16(), v), "torch.float32 on cpu, as q"),
        ((q.long(), k.long(), v.long()), "floating-point"),
    ):
        with pytest.raises(UsageError, match=message):
            attend(*bad)
    for mask, message in (
        (torch.ones(3, 4, dtype=torch.bool), r"\[2, 3, 3, 4\], 1 for any"),
        (torch.ones(1, 1, 4, 4, dtype=torch.bool), "1 for any"),
        (torch.ones(1, 1, 3, 4, dtype=torch.int64), "boolean or floating point"),
    ):
        with pytest.raises(UsageError, match=message):
            attend(q, k, v, mask=mask)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [(1, 1), (63, 127), (1000, 1279)])
@pytest.mark.parametrize("name", [*ALL, "xformers"])
def test_on_cuda_forward_and_gradients(assert_as_accurate, name, lengths, dtype) -> None:
    qkv = [x.to(CUDA, dtype) for x in make_qkv(*lengths, dim=64)]
    attend = ATTENTION.get(name)
    inputs = AttentionInputs.of(*(x.requires_grad_() for x in qkv))
    if (reason := attend.reason_unsupported(inputs)) is not None:
        pytest.skip(f"{name}: {reason}")
    out_grad = torch.randn_like(qkv[0])

    def run(function: Callable[..., Tensor], wanted: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.detach().to(wanted).requires_grad_() for x in qkv]
        out = function(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, out_grad.to(wanted))

    ours, plain = run(attend, dtype), run(plain_attention, dtype)
    exact = run(attention_reference, torch.float64)
    for index, (fast, slow, true) in enumerate(zip(ours, plain, exact, strict=True)):
        assert_as_accurate(fast, slow, true, factor=3 if index else 2)
