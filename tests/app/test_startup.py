"""What the command loads before it has looked at its input; modules are counted, not seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAVY = {"torch", "diffusers", "transformers", "trimesh", "scipy", "embreex", "warp", "xatlas"}
CODE = """
import sys
from seqtex.cli import run
code = run(sys.argv[1:])
print("MODULES", *sys.modules)
sys.exit(code)
"""


def loaded(start: Callable[..., Any], *arguments: str | Path) -> tuple[int, str, set[str]]:
    process = start(arguments, code=CODE)
    out, errors = process.communicate(timeout=60)
    modules = next(line for line in out.splitlines() if line.startswith("MODULES"))
    return process.returncode, out + errors, set(modules.split())


@pytest.mark.parametrize("words", [["--help"], ["texture", "--help"], ["--version"], ["maps"]])
def test_help_loads_nothing_heavy(start: Callable[..., Any], words: list[str]) -> None:
    code, text, modules = loaded(start, *words)
    assert code == (2 if words == ["maps"] else 0)
    assert "seqtex" in text.lower()
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (["--ref-view", "fornt"], 2),
        (["--steps", "0"], 2),
        (["--method", "project", "--steps", "3"], 2),
        (["--front", "y"], 2),
        (["-o", "out.stl"], 2),
        (["-o", "figure.glb"], 2),
        (["--method", "model", "--model", "seqtex-tinny"], 4),
    ],
)
def test_bad_options_are_refused_before_torch_is_loaded(
    start: Callable[..., Any], work: Path, change: list[str], code: int
) -> None:
    change = [str(work / word) if word.startswith(("out", "figure")) else word for word in change]
    command = ["texture", work / "figure.glb", "--image", work / "views" / "0_front.png"]
    returned, text, modules = loaded(start, *command, *change)
    assert returned == code, text
    assert not modules & HEAVY


@pytest.mark.parametrize("broken", ["missing mesh", "cut mesh", "missing image", "broken image"])
def test_bad_files_are_refused_before_torch_is_loaded(
    start: Callable[..., Any], work: Path, broken: str
) -> None:
    mesh, image = work / "figure.glb", work / "views" / "0_front.png"
    if broken.startswith("missing"):
        (mesh if "mesh" in broken else image).unlink()
    else:
        path = mesh if "mesh" in broken else image
        path.write_bytes(path.read_bytes()[:100])
    returned, text, modules = loaded(start, "texture", mesh, "--image", image)
    assert returned == 3, text
    assert not modules & HEAVY
