"""Every snippet of the documentation: Python runs, command lines parse, TOML is read.

What cannot run here says so in the source, in a comment in front of the snippet: ``<!-- not run:
why -->``. Snippets of a page are one program, in a folder with the files that they name.
"""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import create_autospec

import pytest
import typer
from released_peer import PeerSizes, released_state
from safetensors.torch import save_file

import seqtex
from benchmarks.options import parse as parse_benchmarks
from seqtex.cli.app import app
from seqtex.training.config import merge_tables, read_config
from seqtex_backbones.registry import BACKBONES
from seqtex_backbones.seqtex_release import RELEASED_CLASS, RELEASED_DECOUPLED
from seqtex_backbones.wan.configs import WAN_TINY

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in (
        ROOT / "README.md",
        *(
            page
            for folder in ("backbones", "benchmarks", "docs", "examples", "geometry", "seqtex")
            for page in (ROOT / folder).rglob("*.md")
        ),
    )
    if "```" in page.read_text(encoding="utf-8")
)
FENCE = re.compile(
    r"(?P<told><!-- not run: .+? -->\s*?\n)?^(?P<indent> *)```(?P<kind>\w*)\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = 1
"""Snippets that say that they are not run; one more is a decision."""


class Snippet(NamedTuple):
    kind: str
    code: str
    line: int
    is_run: bool


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent = match["indent"]
        code = re.sub(rf"^{indent}", "", match["code"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("kind")) + 1
        found.append(Snippet(match["kind"] or "bash", code, line, match["told"] is None))
    assert 2 * len(found) == len(re.findall(r"^ *```", text, flags=re.MULTILINE)), page
    return found


def of_kind(kind: str) -> list[Any]:
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any(snippet.kind == kind for snippet in snippets(page))
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where snippets run: files of the names that they use, and the example's distribution."""
    for name in ("chair.glb", "robot.glb"):
        shutil.copy(ROOT / "assets" / "demo" / "mesh.glb", tmp_path / name)
    shutil.copy(ROOT / "assets" / "demo" / "reference.png", tmp_path / "chair.png")
    released = tmp_path / "SeqTex-Transformer"
    released.mkdir()
    sizes = PeerSizes(rank=RELEASED_DECOUPLED.lora_rank, alpha=RELEASED_DECOUPLED.lora_alpha)
    save_file(released_state(sizes), released / "diffusion_pytorch_model.safetensors")
    told = {"_class_name": RELEASED_CLASS, **WAN_TINY.config.to_diffusers()}
    (released / "config.json").write_text(json.dumps(told))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "third_party_backbone"))
    entry = "sketch_dit.entry:SKETCH_DIT"  # as if the example's distribution were installed
    monkeypatch.setitem(BACKBONES._entries, "sketch-dit", entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", of_kind("python"))
def test_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a texture takes the pipeline seconds: it is called as it can be called, and makes nothing
    pipeline = create_autospec(seqtex.SeqTexPipeline, instance=True)
    monkeypatch.setattr(seqtex.SeqTexPipeline, "from_pretrained", lambda name: pipeline)
    scope: dict[str, Any] = {"__name__": "documentation"}
    for snippet in snippets(page):
        if snippet.kind == "python":
            code = "\n" * snippet.line + snippet.code
            compiled = compile(code, str(page.relative_to(ROOT)), "exec")
            if snippet.is_run:
                exec(compiled, scope)


def parse_seqtex(words: list[str]) -> None:
    """Parse a command line down to its command, which is not called."""
    command = typer.main.get_command(app)
    context = command.make_context("seqtex", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def parse_command(words: list[str]) -> str:
    """Parse one command line of the documentation; which program it is for."""
    program = words[0].rpartition("/")[2]
    module = words[words.index("-m") + 1] if "-m" in words else ""
    after = words[words.index("-m") + 2 :] if module else words[1:]
    if program == "seqtex" or module == "seqtex":
        parse_seqtex(after)
        return "seqtex"
    if module == "benchmarks.full_size":
        parse_seqtex(after[after.index("--") + 1 :])
        return module
    if module == "benchmarks":
        parse_benchmarks(after)
        return module
    if program == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{after[0]}:", targets, flags=re.MULTILINE), after
        return program
    if program in ("pip", "python") and (program == "pip" or module == "pytest"):
        for word in after:
            assert not word.startswith((".", "examples/")) or (ROOT / word).exists(), word
        return program
    raise AssertionError(f"{words}: what is that?")


@pytest.mark.parametrize("page", of_kind("bash"))
def test_command_lines_parse(page: Path) -> None:
    for snippet in snippets(page):
        if snippet.kind == "bash":
            for line in snippet.code.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    assert parse_command(words)


def test_a_wrong_command_line_would_be_noticed() -> None:
    for wrong in ("seqtex texture a.glb --no-such-option", "seqtex paint a.glb", "make tea"):
        with pytest.raises(Exception, match=r"No such|\['tea'\]"):
            parse_command(wrong.split())


@pytest.mark.parametrize("page", of_kind("toml"))
def test_toml_is_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training configs, later ones as additions to the first of the page; entry points."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "third_party_backbone"))
    whole: Mapping[str, Any] = {}
    for snippet in snippets(page):
        if snippet.kind != "toml":
            continue
        table = tomllib.loads(snippet.code)
        if "project" in table:
            for group in table["project"]["entry-points"].values():
                assert all(pkgutil.resolve_name(target) for target in group.values())
            continue
        file = tmp_path / "run.toml"
        file.write_text(snippet.code, encoding="utf-8")
        whole = merge_tables(whole, table)
        if whole == table:
            read_config(file)
        else:
            file.write_text("", encoding="utf-8")
            read_config(file, whole)


def test_snippets_are_of_known_kinds_and_few_are_not_run() -> None:
    found = [snippet for page in PAGES for snippet in snippets(page)]
    assert {snippet.kind for snippet in found} == {"python", "bash", "toml"}
    assert len(found) > 25
    assert sum(not snippet.is_run for snippet in found) == NOT_RUN
