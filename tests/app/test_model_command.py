"""``seqtex texture --method model``: options reach the model, bad weights are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from seqtex.fusion import FUSION_NAME
from seqtex.manifest import read_manifest
from seqtex.models.config import WEIGHTS_NAME
from seqtex.models.folder import CONFIG_NAME, model_folder

Seqtex = Callable[..., Any]
SMALL = ["--method", "model", "--steps", "1", "--view-size", "32", "--uv-size", "64"]


@pytest.fixture
def good(work: Path) -> list[str | Path]:
    return ["texture", work / "figure.glb", "--image", work / "views" / "0_front.png", *SMALL]


@pytest.fixture
def folder(work: Path) -> Path:
    """A model folder with the config and the fusion of the model that ships, and no weights."""
    (work / "model").mkdir()
    for name in (CONFIG_NAME, FUSION_NAME):
        shutil.copy(model_folder("seqtex-tiny") / name, work / "model" / name)
    return work / "model"


def test_options_reach_the_model_and_the_manifest(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    outcome = seqtex(*good, "--seed", "7", "--dtype", "bfloat16")
    assert outcome.code == 0, outcome.err
    assert "seqtex-tiny" in outcome.err
    record = read_manifest(work / "figure_textured.glb.seqtex.json")
    assert (record["method"], record["seed"], record["task"]) == ("model", 7, "img2tex_projected")
    wanted = {"steps": 1, "view_size": 32, "uv_size": 64, "guidance": 1.0, "prompt": None}
    assert {key: record["settings"][key] for key in wanted} == wanted
    assert "bfloat16" in record["settings"]["dtype"]
    assert record["model"]["name"] == "seqtex-tiny"
    assert len(record["model"]["sha256"]) == 64


def test_all_views_to_texture(seqtex: Seqtex, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.intermediates._PICTURE_SIZE", 64)
    names = {"front": "0_front", "left": "1_left", "back": "2_back", "right": "3_right"}
    refs = [x for n, f in names.items() for x in ("--ref", f"{n}={work / 'views' / f}.png")]
    steps = work / "steps"
    command = ["texture", work / "figure.glb", *refs, *SMALL, "--task", "img2tex_projected"]
    outcome = seqtex(*command, "--save-intermediates", steps)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (steps / "views").iterdir()} == {
        f"{file}.png" for file in names.values()
    }
    texture = np.asarray(Image.open(steps / "textures" / "texture0.png"))
    assert texture.shape == (64, 64, 3)


def refused(seqtex: Seqtex, work: Path, arguments: list[str | Path], code: int) -> str:
    before = sorted(work.rglob("*"))
    outcome = seqtex(*arguments)
    assert outcome.code == code, outcome.err
    assert sorted(work.rglob("*")) == before
    assert "Traceback" not in outcome.err
    return str(outcome.err)


def test_no_such_model(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    assert "seqtex-tiny" in refused(seqtex, work, [*good, "--model", "seqtex-tinny"], 4)


def test_a_folder_without_weights(
    seqtex: Seqtex, work: Path, good: list[str | Path], folder: Path
) -> None:
    assert WEIGHTS_NAME in refused(seqtex, work, [*good, "--model", folder], 4)


def test_weights_of_another_model(
    seqtex: Seqtex, work: Path, good: list[str | Path], folder: Path
) -> None:
    save_file({"encoder.conv.weight": torch.zeros(4, 4)}, folder / WEIGHTS_NAME)
    assert "encoder.conv.weight" in refused(seqtex, work, [*good, "--model", folder], 4)


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_weights_that_are_not_safetensors(
    seqtex: Seqtex, work: Path, good: list[str | Path], folder: Path, data: bytes
) -> None:
    (folder / WEIGHTS_NAME).write_bytes(data)
    assert WEIGHTS_NAME in refused(seqtex, work, [*good, "--model", folder], 4)


def test_a_prompt_for_a_model_without_text(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    assert "prompt" in refused(seqtex, work, [*good, "--prompt", "an owl"], 2)


def test_sizes_that_the_model_cannot_take(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    text = refused(seqtex, work, [*good, "--view-size", "35"], 2)
    assert "--view-size" in text
    assert "nearest is 36" in text  # pixels, not the latents' size


def test_a_task_that_the_model_was_not_made_for(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    text = refused(seqtex, work, [*good, "--model", "seqtex-tiny", "--task", "img2tex"], 2)
    assert "img2tex_projected" in text


@pytest.mark.parametrize("content", ["[]", "{", '"text"', "{}"])
def test_a_config_that_is_none(
    seqtex: Seqtex, work: Path, good: list[str | Path], folder: Path, content: str
) -> None:
    (folder / "seqtex.json").write_text(content)
    assert str(folder) in refused(seqtex, work, [*good, "--model", folder], 4)


def test_a_device_that_computes_nothing(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    assert "--device" in refused(seqtex, work, [*good, "--device", "meta"], 2)
