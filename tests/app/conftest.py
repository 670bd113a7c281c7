"""A small asymmetric mesh with its own colours, its references, and ways to run the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from seqtex.cli import run

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def figure() -> tuple[np.ndarray, np.ndarray]:
    """A body, a nose at the front (+z) and a box on its left (+x): ``[V, 3]``, ``[T, 3]``."""
    body = trimesh.creation.box(extents=(1.0, 1.4, 0.8)).subdivide()
    nose = trimesh.creation.box(extents=(0.3, 0.3, 0.4)).apply_translation((0.0, 0.3, 0.5))
    side = trimesh.creation.box(extents=(0.5, 0.2, 0.2)).apply_translation((0.6, -0.3, 0.0))
    joined = trimesh.util.concatenate([body, nose, side])
    return np.asarray(joined.vertices), np.asarray(joined.faces)


def own_cells(count: int) -> np.ndarray:
    """UVs that give every face its own cell of a grid, ``[T, 3, 2]``."""
    side = int(np.ceil(np.sqrt(count)))
    corner = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]])
    cell = np.stack(np.divmod(np.arange(count), side)[::-1], axis=1)
    return (cell[:, None, :] + corner[None]) / side


def coloured_figure() -> trimesh.Trimesh:
    vertices, faces = figure()
    uvs = own_cells(len(faces)).reshape(-1, 2)
    side = int(np.ceil(np.sqrt(len(faces))))
    colours = np.random.default_rng(7).integers(40, 230, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(np.kron(colours[::-1], np.ones((16, 16, 1), np.uint8)))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0)
    return trimesh.Trimesh(
        vertices[faces].reshape(-1, 3),
        np.arange(3 * len(faces)).reshape(-1, 3),
        visual=trimesh.visual.TextureVisuals(uv=uvs, material=material),
        process=False,
    )


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``figure.glb``, ``bare.ply`` (no UVs), and ``views/`` with the rendered views."""
    folder = tmp_path_factory.mktemp("assets")
    coloured_figure().export(folder / "figure.glb")
    vertices, faces = figure()
    trimesh.Trimesh(vertices, faces, process=False).export(folder / "bare.ply")
    code = run(["render", str(folder / "figure.glb"), "-o", str(folder / "views"), "--size", "128"])
    assert code == 0
    return folder


@pytest.fixture
def work(assets: Path, tmp_path: Path) -> Path:
    """A folder with copies of the assets, to write into."""
    for source in assets.rglob("*"):
        if source.is_file():
            target = tmp_path / source.relative_to(assets)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path


@pytest.fixture
def seqtex(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command line in this process."""

    def call(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start one command line, or other Python code, in its own process."""

    def call(arguments: Sequence[str | Path], *, code: str | None = None) -> subprocess.Popen[str]:
        paths = [str(ROOT), str(ROOT / "backbones"), str(ROOT / "geometry")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        head = ["-m", "seqtex"] if code is None else ["-c", code]
        return subprocess.Popen(
            [sys.executable, *head, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    return call
