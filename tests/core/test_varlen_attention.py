"""PyTorch's attention of packed samples: a stand-in for its function, the choice, refusals."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_inputs import CUDA, make_qkv
from torch import Tensor
from torch.torch_version import TorchVersion

from seqtex_core.attention import (
    ATTENTION,
    AttentionInputs,
    AutoAttend,
    attention_reference,
    choose_attention,
)
from seqtex_core.attention.packed import attend_packed
from seqtex_core.attention.varlen import LEAST_TORCH, VARLEN
from seqtex_core.errors import UnsupportedError

QUERIES, KEYS = (3, 0, 5), (4, 2, 1)
ON_CUDA: dict[str, Any] = {"device": CUDA, "dtype": torch.bfloat16, "head_dim": 128}


def drawn(dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    """Queries, keys and values of three samples; channels of the values are far apart."""
    sizes = (sum(QUERIES), sum(KEYS), sum(KEYS))
    q, k, v = (torch.randn(1, size, 2, 8, device=device).to(dtype) for size in sizes)
    return [q, k, v.transpose(2, 3).contiguous().transpose(2, 3)]


def by_hand(qkv: list[Tensor], scale: float | None) -> Tensor:
    """The definition, sample by sample."""
    parts = zip(qkv[0].split(QUERIES, 1), *(x.split(KEYS, 1) for x in qkv[1:]), strict=True)
    return torch.cat([attention_reference(*part, scale=scale) for part in parts], dim=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of every call of a stand-in, which knows nothing but its arguments."""
    seen: list[int] = []

    def varlen_attn(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
    ) -> Tensor:
        assert all(x.stride(-1) == 1 for x in (query, key, value))
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        pieces = []
        for starts, most in ((cu_seq_q, max_q), (cu_seq_k, max_k)):
            lengths = starts.diff().tolist()
            assert (int(starts[0]), most) == (0, max(lengths))
            pieces.append(lengths)
        assert [sum(p) for p in pieces] == [len(query), len(key)]
        seen.append(len(pieces[0]))
        parts = zip(
            query.split(pieces[0]), *(x.split(pieces[1]) for x in (key, value)), strict=True
        )
        made = [attention_reference(*(x[None] for x in part), scale=scale)[0] for part in parts]
        return torch.cat(made)

    module = types.ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = varlen_attn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(type(VARLEN), "require", lambda self, inputs: None)
    return seen


@pytest.mark.skipif(
    torch.__version__ < LEAST_TORCH, reason=f"its varlen_attn takes a scale since {LEAST_TORCH}"
)
def test_pytorchs_own_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, where only shapes and dtypes are computed."""
    monkeypatch.setattr(type(VARLEN), "require", lambda self, inputs: None)
    qkv = [x.requires_grad_() for x in drawn(torch.bfloat16, "meta")]
    out = attend_packed(VARLEN, *qkv, query_lengths=QUERIES, key_lengths=KEYS, scale=0.3)
    assert (out.shape, out.dtype) == (qkv[0].shape, torch.bfloat16)
    gradients = torch.autograd.grad(out, qkv, torch.empty_like(out))
    assert [g.shape for g in gradients] == [x.shape for x in qkv]


@pytest.mark.parametrize("scale", [None, 0.3])
def test_all_samples_and_their_gradients_in_one_call(calls: list[int], scale: float | None) -> None:
    results = []
    qkv = [x.requires_grad_() for x in drawn()]
    incoming = torch.randn(1, sum(QUERIES), 2, 8)
    lengths: dict[str, Any] = {"query_lengths": list(QUERIES), "key_lengths": list(KEYS)}
    for out in (attend_packed(VARLEN, *qkv, **lengths, scale=scale), by_hand(qkv, scale)):
        results.append((out, *torch.autograd.grad(out, qkv, incoming)))
    assert calls == [3]
    for got, want in zip(*results, strict=True):
        # fp32: sums over at most 8 products and 5 samples' rows, in the same order but for strides
        torch.testing.assert_close(got, want, atol=4e-6, rtol=0)


def test_a_batch_is_samples_of_equal_lengths(calls: list[int]) -> None:
    q, k, v = make_qkv(5, 7)
    out = VARLEN(q, k, v, scale=0.3)
    torch.testing.assert_close(out, attention_reference(q, k, v, scale=0.3), atol=2e-6, rtol=0)
    assert calls == [2]


def test_no_queries_at_all_ask_no_kernel(calls: list[int]) -> None:
    nothing, rows = torch.zeros(1, 0, 2, 8), torch.zeros(1, 3, 2, 8)
    out = attend_packed(VARLEN, nothing, rows, rows, query_lengths=[0, 0], key_lengths=[1, 2])
    assert (out.shape, calls) == (nothing.shape, [])


def test_masked_samples_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the automatic choice, with whatever takes masks; by name it refuses them."""
    mask = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    options: dict[str, Any] = {"query_lengths": [3], "key_lengths": [4], "masks": [mask]}
    q, k = torch.randn(1, 3, 2, 8), torch.randn(1, 4, 2, 8)
    pretend_cuda(monkeypatch, (8, 0))
    inputs = AttentionInputs(**ON_CUDA, has_mask=True, samples=3)
    assert AutoAttend().choose(inputs).name == "sdpa"
    with pytest.raises(UnsupportedError, match="CUDA"):
        attend_packed(VARLEN, q, k, k, **options)


def pretend_cuda(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], torch_version: str = "2.11.0"
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", TorchVersion(torch_version))


@pytest.mark.parametrize(
    ("capability", "samples", "length", "chosen"),
    [
        ((8, 0), 1, 4096, "sdpa"),
        ((8, 0), 4, 4 * 4096, "sdpa_varlen"),
        ((8, 9), 4, 4 * 64, "sdpa_varlen"),
        ((9, 0), 4, 4 * 512, "sdpa_varlen"),
        ((9, 0), 4, 4 * 4096, "sdpa"),
        ((7, 5), 4, 4 * 64, "sdpa"),
    ],
)
def test_auto_takes_it_for_several_samples_where_it_is_the_fastest(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    samples: int,
    length: int,
    chosen: str,
) -> None:
    """On Hopper cuDNN, in a call per sample, gains more on long ones than the calls cost."""
    pretend_cuda(monkeypatch, capability)
    of_flash = type(ATTENTION.get("flash_attn"))
    monkeypatch.setattr(of_flash, "reason_unsupported", lambda self, inputs: "not installed")
    inputs = AttentionInputs(
        **ON_CUDA, num_heads=12, query_length=length, key_length=length, samples=samples
    )
    assert AutoAttend().choose(inputs).name == chosen
    monkeypatch.setattr(of_flash, "reason_unsupported", lambda self, inputs: None)
    monkeypatch.setattr(of_flash, "is_slower_than_sdpa", lambda self, inputs: False)
    assert AutoAttend().choose(inputs).name == "flash_attn"


def test_the_number_of_samples_reaches_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AttentionInputs] = []
    choose: Callable[..., Any] = AutoAttend.choose

    def watched(self: AutoAttend, inputs: AttentionInputs) -> Any:
        seen.append(inputs)
        return choose(self, inputs)

    monkeypatch.setattr(AutoAttend, "choose", watched)
    attend_packed(choose_attention(), *drawn(), query_lengths=QUERIES, key_lengths=KEYS)
    assert (seen[0].samples, seen[0].query_length, seen[0].key_length) == (3, 8, 7)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"device": torch.device("cpu")}, "needs a CUDA device, not cpu"),
        ({"dtype": torch.float32}, "needs float16 or bfloat16, not torch.float32"),
        ({"has_mask": True}, "takes no mask"),
        ({"head_dim": 264}, "at most 256, not 264"),
        ({"head_dim": 256}, None),
        ({"head_dim": 256, "needs_grad": True}, "at most 192 for gradients, not 256"),
    ],
)
def test_reasons(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str | None) -> None:
    pretend_cuda(monkeypatch, (8, 0))
    reason = VARLEN.reason_unsupported(AttentionInputs(**ON_CUDA | change))
    assert reason is None if told is None else told in str(reason)


@pytest.mark.parametrize("version", ["2.6.0", "2.10.1+cu130"])
def test_a_pytorch_that_is_too_old_says_so(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend_cuda(monkeypatch, (9, 0), version)
    reason = VARLEN.reason_unsupported(AttentionInputs(**ON_CUDA))
    assert reason == f"needs PyTorch 2.11 or newer, not {version}"
    pretend_cuda(monkeypatch, (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert "built with FlashAttention" in str(VARLEN.reason_unsupported(AttentionInputs(**ON_CUDA)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_it_is_as_near_as_the_definition(dtype: torch.dtype) -> None:
    """Of what the definition loses in that dtype twice, of its gradients three times as much."""
    if (
        reason := VARLEN.reason_unsupported(AttentionInputs(**ON_CUDA | {"dtype": dtype}))
    ) is not None:
        pytest.skip(reason)
    qkv = drawn(dtype, "cuda")
    incoming = torch.randn(1, sum(QUERIES), 2, 8, device="cuda").to(dtype)
    results: list[tuple[Tensor, ...]] = []
    for kind in (dtype, dtype, torch.float64):
        own = [x.detach().to(kind).requires_grad_() for x in qkv]
        packed = not results
        out = (
            attend_packed(VARLEN, *own, query_lengths=QUERIES, key_lengths=KEYS)
            if packed
            else by_hand(own, None)
        )
        results.append((out, *torch.autograd.grad(out, own, incoming.to(kind))))
    for index, (got, plain, exact) in enumerate(zip(*results, strict=True)):
        floor = torch.finfo(dtype).eps * float(exact.abs().max())
        lost = float((plain.double() - exact).abs().max())
        assert float((got.double() - exact).abs().max()) <= (3 if index else 2) * max(lost, floor)
