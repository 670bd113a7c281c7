"""The README's examples run, and the files that it names exist."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import create_autospec

import pytest

import seqtex

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_block_example_runs_and_has_the_shape_it_promises():
    code = next(block for block in BLOCKS if "GeoAttention" in block)
    assert len(code.strip().splitlines()) <= 15
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["out"].shape == scope["uv"].shape
    assert scope["out"].isfinite().all()


def test_the_library_example_calls_what_there_is(monkeypatch):
    """The example with a pipeline that takes what the real one takes, and makes nothing."""
    code = next(block for block in BLOCKS if "from_pretrained" in block)
    pipeline = create_autospec(seqtex.SeqTexPipeline, instance=True)
    monkeypatch.setattr(seqtex.SeqTexPipeline, "from_pretrained", lambda name: pipeline)
    exec(compile(code, "README.md", "exec"), {})
    pipeline.assert_called_once()
    pipeline.return_value.save.assert_called_once()


def test_named_files_exist():
    named = re.findall(r"`((?:seqtex|seqtex_core|backbones|geometry)/[\w/{},.*]*)`", README)
    assert len(named) > 10
    for entry in named:
        group = re.search(r"\{(.*)\}", entry)
        parts = group.group(1).split(",") if group else [""]
        for part in parts:
            path = re.sub(r"\{.*\}", part, entry)
            assert list(ROOT.glob(path.rstrip("/"))), f"README names {path}, which is not there"


PAGES = [
    *ROOT.glob("*.md"),
    *(
        path
        for name in ("backbones", "benchmarks", "docs", "examples", "geometry", "seqtex")
        for path in (ROOT / name).rglob("*.md")
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_pages_link_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
