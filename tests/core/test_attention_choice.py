"""The list of attention implementations, and which one is chosen."""

import logging
import runpy
import subprocess
import sys

import pytest
import torch
from attention_inputs import ALL, CPU, RUNS_ON_CPU, make_qkv

from seqtex_core.attention import (
    ATTENTION,
    AUTO_ORDER,
    AttentionInputs,
    AutoAttend,
    SdpaAttend,
    attention_reference,
    choose_attention,
    list_attention,
)
from seqtex_core.errors import UnsupportedError, UsageError


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
