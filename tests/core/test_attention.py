from __future__ import annotations

import importlib.machinery
import logging
import runpy
import subprocess
import sys
import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqtex_core.attention import (
    ATTENTION,
    AUTO_ORDER,
    AttendBase,
    AttentionInputs,
    AutoAttend,
    SdpaAttend,
    attention_reference,
    choose_attention,
    chunked,
    list_attention,
)
from seqtex_core.attention.flash import FLASH_3
from seqtex_core.attention.flex import MAX_CPU_SCORES
from seqtex_core.errors import MissingDependencyError, UnsupportedError, UsageError

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
RUNS_ON_CPU = ("sdpa", "sdpa_flash", "flex", "chunked", "reference")
OF_TORCH = ("sdpa", "sdpa_cudnn", "sdpa_efficient", "sdpa_flash")
ALL = ("chunked", "flash_attn", "flex", "reference", *OF_TORCH)


def make_qkv(q_len: int, k_len: int, *, heads: int = 3, dim: int = 8) -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, length, heads, dim) for length in (q_len, k_len, k_len))


def make_mask(kind: str, q_len: int, k_len: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.rand(2, 1, q_len, k_len) > 0.4
    mask[..., 0] = True
    return mask if kind == "bool" else torch.randn(1, 3, q_len, k_len).where(mask[:1], -torch.inf)


# --- the definition ----------------------------------------------------------------------------


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


# --- implementations that run on CPU -----------------------------------------------------------


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


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with every step in the dtype of its inputs: the yardstick for fast kernels."""
    logits = torch.einsum("bqnd,bknd->bnqk", q, k) * q.shape[3] ** -0.5
    return torch.einsum("bnqk,bknd->bqnd", logits.softmax(dim=-1), v)


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


# --- bad inputs --------------------------------------------------------------------------------


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
        (torch.ones(3, 4, dtype=torch.bool), r"broadcastable to \[2, 3, 3, 4\]"),
        (torch.ones(1, 1, 4, 4, dtype=torch.bool), "broadcastable"),
        (torch.ones(1, 1, 3, 4, dtype=torch.int64), "boolean or floating point"),
    ):
        with pytest.raises(UsageError, match=message):
            attend(q, k, v, mask=mask)


# --- the list and the choice -------------------------------------------------------------------


def test_every_implementation_is_listed_with_its_reason() -> None:
    listed = dict(list_attention("cpu"))
    assert sorted(listed) == sorted({*ALL, "xformers"})
    assert [name for name, reason in listed.items() if reason is None] == sorted(RUNS_ON_CPU)
    assert all(reason for name, reason in listed.items() if name not in RUNS_ON_CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for the answer without CUDA")
def test_listing_for_a_missing_device_gives_reasons() -> None:
    reasons = dict(list_attention("cuda"))
    assert set(reasons.values()) == {"needs a CUDA device, and there is none"}


def test_the_module_prints_the_list(capsys) -> None:
    runpy.run_module("seqtex_core.attention", run_name="__main__")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert sorted(lines) == sorted({*ALL, "xformers"})
    assert lines["sdpa"] == "ready"


def test_listing_names_imports_nothing() -> None:
    code = (
        "import sys, seqtex_core.attention as a; a.ATTENTION.names();"
        "assert not {'flash_attn', 'xformers', 'triton'} & set(sys.modules);"
        "assert 'seqtex_core.attention.sdpa' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_takes_the_first_that_fits_and_logs_it_once(caplog) -> None:
    auto = AutoAttend()
    with caplog.at_level(logging.INFO, logger="seqtex_core.attention"):
        for length in (3, 4, 3):
            auto(*make_qkv(length, 5))
    fitting = [name for name in AUTO_ORDER if dict(list_attention("cpu"))[name] is None]
    assert [record.getMessage() for record in caplog.records] == [
        f"attention: auto chose {fitting[0]} on cpu"
    ]
    assert auto.choose(AttentionInputs(device=CPU)).name == fitting[0] == "sdpa"


def test_a_named_one_that_cannot_run_raises() -> None:
    inputs = AttentionInputs(device=CPU)
    with pytest.raises(UnsupportedError, match=r"sdpa_cudnn.*needs a CUDA device, not cpu"):
        choose_attention("sdpa_cudnn", inputs)
    with pytest.raises(UnsupportedError, match=r"sdpa_flash.*takes no mask"):
        choose_attention("sdpa_flash", AttentionInputs(device=CPU, has_mask=True))
    with pytest.raises(UsageError, match="Did you mean 'flash_attn'"):
        choose_attention("flash_atn")
    with pytest.raises(UsageError, match="flash, efficient, cudnn, math"):
        SdpaAttend("fast")  # type: ignore[arg-type]
    assert choose_attention("sdpa", inputs) is ATTENTION.get("sdpa")


def test_a_third_party_implementation_is_chosen_by_name(monkeypatch) -> None:
    class Picky:
        name = "picky"

        def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
            return "takes no mask" if inputs.has_mask else None

        def __call__(self, q, k, v, *, mask=None, scale=None):
            return attention_reference(q, k, v, scale=scale)

    monkeypatch.setitem(ATTENTION._entries, "picky", Picky())
    assert choose_attention("picky", AttentionInputs(device=CPU)).name == "picky"
    with pytest.raises(UnsupportedError, match="takes no mask"):
        choose_attention("picky", AttentionInputs(device=CPU, has_mask=True))


# --- packages that need CUDA: contracts, with stand-ins in their place -------------------------


def stand_in(monkeypatch, module: str, **functions: Callable[..., object]) -> None:
    """Put a module with ``functions`` where the package would be."""
    parent = module.split(".")[0]
    for name in {parent, module}:
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, made)
    for name, function in functions.items():
        setattr(sys.modules[module], name, function)


def pretend_cuda(monkeypatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


def blhd_kernel(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """What these packages compute, in their layout ``[B, L, N, D]``; picky about strides."""
    for x in (q, k, v):
        assert x.stride(-1) == 1, "channels must be contiguous"
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads_first, scale=scale).transpose(1, 2)


def flash_2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    assert dropout_p == 0.0
    assert causal is False
    return blhd_kernel(q, k, v, softmax_scale)


def flash_3_early(q, k, v, softmax_scale=None, causal=False):
    return blhd_kernel(q, k, v, softmax_scale), torch.zeros(1)


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    assert attn_bias is None
    assert p == 0.0
    return blhd_kernel(query, key, value, scale)


STAND_INS = {
    "flash_attn": ("flash_attn", {"flash_attn_func": flash_2}),
    "xformers": ("xformers.ops", {"memory_efficient_attention": memory_efficient_attention}),
}


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("lengths", [(1, 1), (63, 127), (127, 63)])
def test_layout_scale_and_lengths_reach_the_package(monkeypatch, name: str, lengths) -> None:
    module, functions = STAND_INS[name]
    stand_in(monkeypatch, module, **functions)
    q, k, v = make_qkv(*lengths)
    channels_last = v.transpose(1, 3).contiguous().transpose(1, 3)
    out = ATTENTION.get(name).attend(q, k, channels_last, None, 0.3)
    expected = attention_reference(q, k, v, scale=0.3)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", STAND_INS)
def test_packages_trace_into_one_graph(monkeypatch, name: str) -> None:
    module, functions = STAND_INS[name]
    stand_in(monkeypatch, module, **functions)
    q, k, v = make_qkv(3, 4)
    attend = ATTENTION.get(name)
    traced = torch.compile(lambda *x: attend.attend(*x, None, 0.3), backend="eager", fullgraph=True)
    assert torch.equal(traced(q, k, v), attend.attend(q, k, v, None, 0.3))


def test_flash_3_is_used_on_hopper_only_and_its_tuple_is_opened(monkeypatch) -> None:
    stand_in(monkeypatch, "flash_attn_interface", flash_attn_func=flash_3_early)
    flash = ATTENTION.get("flash_attn")
    inputs = AttentionInputs(device=CUDA, dtype=torch.bfloat16, head_dim=128)
    pretend_cuda(monkeypatch, (9, 0))
    assert flash.package(inputs).module == "flash_attn_interface"
    assert flash.reason_unsupported(inputs) is None
    pretend_cuda(monkeypatch, (8, 0))
    assert flash.package(inputs).module == "flash_attn"
    assert "needs the package flash_attn" in flash.reason_unsupported(inputs)
    monkeypatch.setattr(type(flash), "package", lambda self, inputs: FLASH_3)
    q, k, v = make_qkv(3, 4)
    out = flash.attend(q, k, v, None, 0.3)
    expected = attention_reference(q, k, v, scale=0.3)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["flash_attn", "xformers", "sdpa_cudnn", "sdpa_flash"])
def test_guards_of_16_bit_cuda_kernels(monkeypatch, name: str) -> None:
    for module, functions in STAND_INS.values():
        stand_in(monkeypatch, module, **functions)
    pretend_cuda(monkeypatch, (8, 0))
    attend = ATTENTION.get(name)
    good = {"device": CUDA, "dtype": torch.bfloat16, "head_dim": 128}
    assert attend.reason_unsupported(AttentionInputs(**good)) is None
    for change, message in (
        ({"dtype": torch.float32}, "float16 or bfloat16"),
        ({"has_mask": True}, "no mask"),
        ({"head_dim": 20}, "multiple of 8"),
        ({"head_dim": 264}, "at most"),
        ({"device": torch.device("meta")}, "CUDA"),
    ):
        assert message in attend.reason_unsupported(AttentionInputs(**good | change))


def test_flash_needs_ampere(monkeypatch) -> None:
    stand_in(monkeypatch, "flash_attn", flash_attn_func=flash_2)
    pretend_cuda(monkeypatch, (7, 5))
    reason = ATTENTION.get("flash_attn").reason_unsupported(AttentionInputs(device=CUDA))
    assert reason == "needs compute capability 8.0 or newer, not 7.5"


def test_guards_of_efficient_and_flex_on_cuda(monkeypatch) -> None:
    pretend_cuda(monkeypatch, (8, 0))
    stand_in(monkeypatch, "triton")
    for name in ("sdpa_efficient", "flex"):
        ask = ATTENTION.get(name).reason_unsupported
        assert ask(AttentionInputs(device=CUDA, dtype=torch.float32, head_dim=64)) is None
        assert "float64" in ask(AttentionInputs(device=CUDA, dtype=torch.float64))
    small = AttentionInputs(device=CUDA, head_dim=8)
    assert "at least 16" in ATTENTION.get("flex").reason_unsupported(small)


@pytest.mark.parametrize(
    ("name", "module"), [("flash_attn", "flash_attn"), ("xformers", "xformers")]
)
def test_missing_package_names_the_pip_line(monkeypatch, name: str, module: str) -> None:
    hide(monkeypatch, module)
    pretend_cuda(monkeypatch, (8, 0))
    inputs = AttentionInputs(device=CUDA, dtype=torch.bfloat16, head_dim=128)
    with pytest.raises(MissingDependencyError, match=rf"{module}.*no such package.*pip install"):
        choose_attention(name, inputs)
    assert "pip install" in ATTENTION.get(name).reason_unsupported(inputs)


def hide(monkeypatch, module: str) -> None:
    find_spec = importlib.util.find_spec
    for name in [n for n in sys.modules if n.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == module else find_spec(name)
    )


def test_broken_package_is_not_called_missing(monkeypatch, tmp_path) -> None:
    hide_all = [n for n in sys.modules if n.split(".")[0] == "flash_attn"]
    for name in hide_all:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    pretend_cuda(monkeypatch, (8, 0))
    inputs = AttentionInputs(device=CUDA, dtype=torch.bfloat16, head_dim=128)
    with pytest.raises(MissingDependencyError, match=r"OSError: undefined symbol.*broken"):
        choose_attention("flash_attn", inputs)


def test_a_package_without_a_kernel_for_the_inputs_is_a_refusal(monkeypatch) -> None:
    def no_operator(*args, **kwargs):
        raise NotImplementedError("No operator found")

    stand_in(monkeypatch, "xformers.ops", memory_efficient_attention=no_operator)
    with pytest.raises(UnsupportedError, match="no kernel of it takes"):
        ATTENTION.get("xformers").attend(*make_qkv(3, 4), None, 0.3)


def test_a_forced_kernel_is_never_replaced() -> None:
    attend = SdpaAttend("cudnn")
    with pytest.raises(UnsupportedError, match="this kernel does not take"):
        attend.attend(*make_qkv(3, 4), None, 0.3)
    assert isinstance(attend, AttendBase)


# --- the real ones -----------------------------------------------------------------------------


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
