"""Attention packages that need CUDA: contracts, with stand-ins in their place."""

import importlib.machinery
import sys
import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from attention_inputs import CUDA, make_qkv
from torch import Tensor

from seqtex_core.attention import (
    ATTENTION,
    AttendBase,
    AttentionInputs,
    AutoAttend,
    SdpaAttend,
    attention_reference,
    choose_attention,
)
from seqtex_core.attention.flash import FLASH_3
from seqtex_core.errors import MissingDependencyError, UnsupportedError


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


@pytest.mark.parametrize(
    ("capability", "modules", "chosen"),
    [
        ((8, 0), ["flash_attn"], "flash_attn"),
        ((8, 9), ["flash_attn"], "flash_attn"),
        ((9, 0), ["flash_attn"], "sdpa"),
        ((10, 0), ["flash_attn"], "sdpa"),
        ((9, 0), ["flash_attn", "flash_attn_interface"], "flash_attn"),
        ((10, 0), ["flash_attn", "flash_attn_interface"], "sdpa"),
    ],
)
def test_auto_leaves_flash_2_to_cards_before_hopper(
    monkeypatch, capability: tuple[int, int], modules: list[str], chosen: str
) -> None:
    hide(monkeypatch, "flash_attn_interface")
    for module in modules:
        stand_in(monkeypatch, module, flash_attn_func=flash_2)
    pretend_cuda(monkeypatch, capability)
    inputs = AttentionInputs(device=CUDA, dtype=torch.bfloat16, head_dim=128)
    assert AutoAttend().choose(inputs).name == chosen
    assert choose_attention("flash_attn", inputs).name == "flash_attn"  # by name it runs anywhere


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
