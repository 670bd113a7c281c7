"""Texturing and training on another device, from end to end: no tensor is misplaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from pretended_device import pretended_device
from safetensors.torch import load_file
from training_runs import make_run, tiny_config, with_copies

from seqtex.manifest import read_manifest
from seqtex.training.parallel import SingleProcess
from seqtex.training.trainer import train

Seqtex = Callable[..., Any]
SMALL = ["--texture-size", "128", "--steps", "2"]


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretended_device() as found:
        yield found


@pytest.fixture
def texture(seqtex: Seqtex, work: Path) -> Callable[..., Any]:
    def call(*options: str) -> Any:
        picture = work / "views" / "0_front.png"
        return seqtex("texture", work / "figure.glb", "--image", picture, *options, "--overwrite")

    return call


def colours(work: Path) -> np.ndarray:
    mesh = trimesh.load(work / "figure_textured.glb", force="mesh", process=False)
    return np.asarray(mesh.visual.material.baseColorTexture).astype(int)


@pytest.mark.parametrize("options", [SMALL, ["--method", "project", "--texture-size", "128"]])
def test_a_texture_is_that_of_the_cpu(
    device: torch.device, texture: Callable[..., Any], work: Path, options: list[str]
) -> None:
    outcome = texture("--device", "lazy", *options)
    assert outcome.code == 0, outcome.err
    assert read_manifest(work / "figure_textured.glb.seqtex.json")["settings"]["device"] == "lazy"
    found = colours(work)
    assert texture("--device", "cpu", "--rasterizer", "reference", *options).code == 0
    # roundings, which choices between equal weights may enlarge in a few texels
    assert float((np.abs(found - colours(work)).max(axis=-1) > 1).mean()) < 0.01


def test_training_makes_the_weights_of_the_cpu(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.autocast

    def autocast(kind: str, *args: Any, **options: Any) -> Any:
        return nullcontext() if kind == device.type else real(kind, *args, **options)

    monkeypatch.setattr(torch, "autocast", autocast)  # torch has none for this type
    config = with_copies(tiny_config(2))
    made = []
    for name, where in (("here", "cpu"), ("there", device)):
        run = make_run(config, tmp_path / name, parallel=SingleProcess(torch.device(where)))
        assert train(run, resume=False, say=lambda text: None).finished
        assert next(run.transformer.parameters()).device == torch.device(where)
        made.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    assert set(made[0]) == set(made[1])
    for key, weight in made[0].items():
        # two steps of at most 1e-3; roundings of gradients move them by a small part of that
        torch.testing.assert_close(made[1][key], weight, rtol=0, atol=2e-6, msg=key)
