"""Which backend is taken, and what is said when one cannot run."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqtex_core.errors import MissingDependencyError, UnsupportedError, UsageError
from seqtex_geometry.rasterize import (
    RASTERIZERS,
    available_rasterizers,
    choose_rasterizer,
    embree,
    kaolin,
    protocol,
    warp,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_all_backends_are_listed_with_their_reasons() -> None:
    listed = dict(available_rasterizers())
    assert sorted(listed) == ["embree", "kaolin", "reference", "warp"]
    assert listed["reference"] is None
    assert "CUDA only" in str(listed["kaolin"])
    for name in listed:
        assert RASTERIZERS.get(name).name == name


def test_auto_takes_the_first_that_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    protocol._log_choice.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert choose_rasterizer().name == "embree"
    assert [record.message for record in caplog.records] == [
        "rasterizer: embree (chosen automatically on cpu)"
    ]
    monkeypatch.setattr(embree, "find_spec", lambda name: None)
    assert choose_rasterizer().name == "warp"
    monkeypatch.setattr(warp, "find_spec", lambda name: None)
    assert choose_rasterizer().name == "reference"


def test_auto_on_cuda_prefers_kaolin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaolin, "_reason_no_package", lambda: None)
    assert choose_rasterizer("auto", "cuda").name == "kaolin"
    monkeypatch.setattr(kaolin, "_reason_no_package", lambda: "not installed")
    monkeypatch.setattr(warp, "_reason_no_cuda", lambda: None)
    assert choose_rasterizer("auto", "cuda").name == "warp"
    monkeypatch.setattr(warp, "_reason_no_cuda", lambda: "no driver")
    assert choose_rasterizer("auto", "cuda").name == "reference"


def test_a_named_backend_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"CUDA only.*embree.*reference"):
        choose_rasterizer("kaolin", "cpu")
    with pytest.raises(UnsupportedError, match="runs on the CPU, not on cuda"):
        choose_rasterizer("embree", "cuda")
    monkeypatch.setattr(embree, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install embreex"):
        choose_rasterizer("embree", "cpu")
    with pytest.raises(UsageError, match="Did you mean 'embree'"):
        choose_rasterizer("embre")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"__init__.py": ""}, "empty placeholder"),
        ({"__init__.py": "raise ImportError('libcudart.so.12')"}, "libcudart.so.12"),
        ({"__init__.py": "", "render/__init__.py": "", "render/mesh.py": ""}, "no rasterize"),
        (
            {
                "__init__.py": "",
                "render/__init__.py": "",
                "render/mesh.py": "def rasterize(): pass",
            },
            "no CUDA device",
        ),
    ],
)
def test_kaolin_says_what_is_wrong_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        path = tmp_path / "kaolin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in [name for name in sys.modules if name.split(".")[0] == "kaolin"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        assert reason in str(RASTERIZERS.get("kaolin").reason_unsupported(CUDA))
        with pytest.raises(MissingDependencyError):
            choose_rasterizer("kaolin", "cuda")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "kaolin"]:
            del sys.modules[name]


def test_kaolin_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaolin, "find_spec", lambda name: None)
    assert "not installed" in str(RASTERIZERS.get("kaolin").reason_unsupported(CUDA))


def test_listing_imports_no_backend_package() -> None:
    code = (
        "import sys, seqtex_geometry.rasterize as r; names = list(r.RASTERIZERS); "
        "r.available_rasterizers(); "
        "assert not {'embreex', 'warp', 'kaolin'} & set(sys.modules), sorted(sys.modules)"
    )
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "geometry")]
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"], check=True
    )
