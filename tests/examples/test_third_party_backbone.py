"""The example distribution, installed beside the library: found by name, and conformant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "third_party_backbone"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the example into; no network, nothing else changed."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (pip install -e '.[dev]')")
    source = tmp_path_factory.mktemp("source")
    for file in EXAMPLE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            copied = source / file.relative_to(EXAMPLE)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(file.read_bytes())
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--target", target]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    done = subprocess.run([*pip, *options, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(arguments: list[str], *folders: Path) -> str:
    paths = [ROOT, ROOT / "backbones", ROOT / "geometry", *folders]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folders[-1] if folders else None,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_lists_it_once_it_is_installed(installed: Path) -> None:
    info = ["-c", "from seqtex.cli import main; main()", "info"]
    assert "sketch-dit" in run(info, installed)
    assert "sketch-dit" not in run(info)


def test_it_loads_by_name(installed: Path) -> None:
    code = (
        "from seqtex_backbones.registry import BACKBONES, load_backbone\n"
        "import sys\n"
        "assert 'sketch-dit' in BACKBONES and 'sketch_dit' not in sys.modules\n"
        "backbone = load_backbone('sketch-dit', seed=0)\n"
        "print(backbone.spec.name, type(backbone).__module__)\n"
    )
    assert run(["-c", code], installed).split() == ["sketch-dit", "sketch_dit.backbone"]


def test_its_model_knows_nothing_of_the_library() -> None:
    assert "seqtex_" not in (EXAMPLE / "sketch_dit" / "model.py").read_text(encoding="utf-8")


def test_it_passes_its_own_tests_with_the_suite(installed: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", EXAMPLE]
    out = run(["-m", "pytest", *map(str, options), str(EXAMPLE / "tests")], installed)
    passed = int(out.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 35  # the suite itself, not an empty collection
    assert " 1 skipped" in out  # of text with hidden rows, which the model does not know
