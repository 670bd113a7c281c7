"""What is in the wheel, and nothing else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"seqtex", "seqtex_core", "seqtex_backbones", "seqtex_geometry"}
FOLDERS = {
    "seqtex": ROOT / "seqtex",
    "seqtex_core": ROOT / "seqtex_core",
    "seqtex_backbones": ROOT / "backbones" / "seqtex_backbones",
    "seqtex_geometry": ROOT / "geometry" / "seqtex_geometry",
}
_MISSING = [name for name in ("build", "hatchling") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if _MISSING:
        pytest.skip(f"not installed: {', '.join(_MISSING)} (pip install -e '.[dev]')")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_top_level_names_are_the_four_packages(wheel_names: list[str]) -> None:
    tops = {name.split("/", 1)[0] for name in wheel_names}
    (metadata,) = {top for top in tops if top.endswith(".dist-info")}
    assert tops - {metadata} == PACKAGES


def test_every_package_is_typed(wheel_names: list[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel_names)


def test_every_file_of_the_packages_is_there(wheel_names: list[str]) -> None:
    """Python sources and data files alike; compiled leftovers are not."""
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {name for name in wheel_names if ".dist-info/" not in name}
    assert shipped == expected


def test_the_command_and_the_licence_are_declared(wheel_names: list[str]) -> None:
    metadata = {name.split("/", 1)[1] for name in wheel_names if ".dist-info/" in name}
    assert {"entry_points.txt", "METADATA", "licenses/LICENSE"} <= metadata
