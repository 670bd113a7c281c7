"""``seqtex texture --text`` and ``seqtex reference`` from end to end with tiny random models."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from text_to_image_models import build_image_models

from seqtex.manifest import file_sha256, read_manifest
from seqtex_core.errors import OutOfMemoryError

Seqtex = Callable[..., Any]
SMALL = ["--image-size", "64", "--image-steps", "1"]
PROJECT = ["--method", "project", "--texture-size", "64"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image_models")
    build_image_models(folder)
    return folder


def sdxl(models: Path) -> list[str | Path]:
    nets = ["--control-model", models / "sdxl-depth", "--control-model", models / "sdxl-normal"]
    return ["--image-model", models / "sdxl", *nets]


def texture_of(glb: Path) -> np.ndarray:
    mesh = trimesh.load(glb, force="mesh", process=False)
    return np.asarray(mesh.visual.material.baseColorTexture)


def test_a_text_becomes_a_textured_mesh(
    seqtex: Seqtex, work: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqtex.intermediates._PICTURE_SIZE", 64)
    mesh, steps = work / "figure.glb", work / "steps"
    command = ["texture", mesh, "--text", "a fox", *sdxl(models), *SMALL, *PROJECT]
    outcome = seqtex(*command, "--seed", "5", "--save-intermediates", steps)
    assert outcome.code == 0, outcome.err
    assert "image model: sdxl-controlnet, reads depth and normal" in outcome.err
    assert "prompt: a fox, front view, " in outcome.err
    result, picture = work / "figure_textured.glb", work / "figure_textured_reference.png"
    record = read_manifest(Path(f"{result}.seqtex.json"))
    told = record["settings"]["text_to_image"]
    assert "seconds" not in told  # of the picture; equal runs write equal meshes
    assert told["model"] == "sdxl"
    assert told["control_models"] == ["sdxl-depth", "sdxl-normal"]
    assert told["seed"] == 5
    used = {"role": "reference front", "name": picture.name, "sha256": file_sha256(picture)}
    assert used in record["inputs"]
    assert str(work) not in json.dumps(record)
    kept = {path.name for path in (steps / "references").iterdir()}
    assert {"from_text_depth.png", "from_text_normal.png", "from_text_mask.png"} < kept
    # The picture that was kept gives the same texture by itself.
    again = work / "again.glb"
    assert seqtex("texture", mesh, "--image", picture, *PROJECT, "-o", again).code == 0
    assert np.array_equal(texture_of(result), texture_of(again))


def test_the_transformer_takes_the_picture_too(seqtex: Seqtex, work: Path, models: Path) -> None:
    command = ["texture", work / "figure.glb", "--text", "a fox", "--text-view", "left", *SMALL]
    flux = ["--image-model", models / "flux-depth", "--method", "model", "--steps", "1"]
    outcome = seqtex(*command, *flux)
    assert outcome.code == 0, outcome.err
    record = read_manifest(work / "figure_textured.glb.seqtex.json")
    assert record["method"] == "model"
    assert record["settings"]["text_to_image"]["view"] == "left"
    assert record["inputs"][1]["role"] == "reference left"
    assert texture_of(work / "figure_textured.glb").std() > 0


def test_a_picture_that_was_painted_over_stays(seqtex: Seqtex, work: Path, models: Path) -> None:
    picture = work / "figure_textured_reference.png"
    record = Path(f"{picture}.seqtex.json")
    record.write_text("{}")
    picture.write_bytes(b"painted")
    os.utime(record, (1e9, 1e9))
    command = ["texture", work / "figure.glb", "--text", "a fox", *sdxl(models), *SMALL]
    outcome = seqtex(*command)
    assert outcome.code == 2
    assert "which was changed since" in outcome.err
    assert picture.read_bytes() == b"painted"


def test_reference_writes_the_picture_and_its_controls(
    seqtex: Seqtex, work: Path, models: Path
) -> None:
    out = work / "new" / "fox.png"
    union = ["--image-model", models / "sdxl", "--control-model", models / "sdxl-union"]
    command = ["reference", work / "figure.glb", "--text", "a fox", *union, "-o", out]
    outcome = seqtex(*command, "--size", "64", "--steps", "1", "--raw-text")
    assert outcome.code == 0, outcome.err
    paths = [out, *(out.with_name(f"fox_{name}.png") for name in ("depth", "normal", "mask"))]
    assert outcome.out.splitlines() == [str(path) for path in paths]
    picture = np.asarray(Image.open(out))
    assert picture.shape == (64, 64, 4)
    mask = np.asarray(Image.open(paths[3]).convert("L"))
    assert np.array_equal(picture[..., 3], mask)
    record = json.loads(Path(f"{out}.seqtex.json").read_text())
    assert record["text_to_image"]["prompt"] == "a fox"
    assert seqtex("texture", work / "figure.glb", "--image", out, *PROJECT).code == 0


def test_controls_alone_need_no_model(seqtex: Seqtex, work: Path) -> None:
    command = ["reference", work / "bare.ply", "--controls-only", "--size", "64", "--view", "back"]
    outcome = seqtex(*command)
    assert outcome.code == 0, outcome.err
    names = {path.name for path in work.glob("bare_reference*")}
    controls = {f"bare_reference_{name}.png" for name in ("depth", "normal", "mask")}
    assert names == controls | {"bare_reference.png.seqtex.json"}
    assert np.asarray(Image.open(work / "bare_reference_depth.png")).max() >= 250  # antialiased
    assert seqtex(*command).code == 0  # its own results are replaced
    (work / "bare_reference.png.seqtex.json").unlink()
    assert seqtex(*command).code == 2  # somebody else's are not


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--text", "a fox"], 2, "--image-model"),
        (["--text", " ", "--image-model", "x"], 2, "nothing"),
        (["--image-model", "sdxl"], 2, "--text beside it"),
        (["--text-view", "left", "--image-size", "64"], 2, "--text-view, --image-size"),
        (["--text", "a", "--image", "views/0_front.png"], 2, "one of the three"),
        (["--text", "a", "--text-view", "top"], 2, "a view among"),
        (["--text", "a", "--image-model", "nowhere"], 4, "no such folder"),
        (["--text", "a", "--image-size", "100"], 2, "The nearest is 96"),
        (["--text", "a", "--image-steps", "0"], 2, "--image-steps"),
        (["--text", "a", "--offload", "disk"], 2, "--offload"),
    ],
)
def test_bad_requests_are_refused(
    seqtex: Seqtex, work: Path, words: list[str], code: int, message: str
) -> None:
    words = [str(work / word) if word.endswith(".png") else word for word in words]
    outcome = seqtex("texture", work / "figure.glb", *words)
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err


def test_models_are_checked_before_weights_are_read(
    seqtex: Seqtex, work: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqtex.text_to_image.registry.load_generator", None)  # must not be called
    command = ["texture", work / "figure.glb", "--text", "a fox", "--image-model", models / "sdxl"]
    outcome = seqtex(*command, "--control-model", models / "flux-net-depth")
    assert outcome.code == 2
    assert "got       a FluxControlNetModel" in outcome.err


def test_running_out_of_memory_names_the_next_setting(
    seqtex: Seqtex, work: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(spec: object) -> None:
        raise MemoryError

    monkeypatch.setattr("seqtex.text_to_image.registry.load_generator", full)
    command = ["texture", work / "figure.glb", "--text", "a fox", *sdxl(models), *SMALL]
    outcome = seqtex(*command)
    assert outcome.code == OutOfMemoryError.exit_code
    assert "--offload model" in outcome.err
    assert not (work / "figure_textured_reference.png").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pose=sdxl-depth", ["depth= or normal= before the name", "pose="]),
        ("depth=", ["a folder or a hub id"]),
        ("depth=nowhere", ["no such folder", "'nowhere'"]),
    ],
)
def test_a_kind_of_control_image_that_there_is_not(
    seqtex: Seqtex, work: Path, models: Path, name: str, words: list[str]
) -> None:
    command = ["texture", work / "figure.glb", "--text", "a fox", "--image-model", models / "sdxl"]
    outcome = seqtex(*command, "--control-model", name)
    assert outcome.code in (2, 4)
    for word in words:
        assert word in outcome.err
