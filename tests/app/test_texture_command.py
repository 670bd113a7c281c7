"""``seqtex texture`` from end to end on a small mesh."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
import pytest
import trimesh
from PIL import Image

from seqtex.cli import run
from seqtex.manifest import file_sha256, read_manifest

Seqtex = Callable[..., Any]
PROJECT = ["--method", "project"]
SIZE = [*PROJECT, "--texture-size", "256"]


def texture_of(glb: Path) -> Image.Image:
    mesh = trimesh.load(glb, force="mesh", process=False)
    return mesh.visual.material.baseColorTexture


def view_bytes(glb: Path) -> list[bytes]:
    """Bytes of every accessor's buffer view, through a reader that is not ours."""
    document = pygltflib.GLTF2().load_binary(str(glb))
    blob = document.binary_blob()
    views = [document.bufferViews[accessor.bufferView] for accessor in document.accessors]
    return [blob[v.byteOffset or 0 : (v.byteOffset or 0) + v.byteLength] for v in views]


def inner_difference(first: Path, second: Path) -> float:
    """Mean difference (of 255) over the pixels that are opaque in both, two pixels inside."""
    pictures = [np.asarray(Image.open(p).convert("RGBA")).astype(float) for p in (first, second)]
    solid = (pictures[0][..., 3] == 255) & (pictures[1][..., 3] == 255)
    for _ in range(2):
        solid[1:-1, 1:-1] &= solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:]
    assert solid.sum() > 500
    return float(np.abs(pictures[0] - pictures[1])[solid][:, :3].mean())


def textured_views(seqtex: Seqtex, mesh: Path, folder: Path) -> Path:
    assert seqtex("render", mesh, "-o", folder, "--size", "128").code == 0
    return folder


@dataclass(frozen=True)
class Run:
    """One finished run on the coloured figure, looked at by several tests."""

    folder: Path
    out: str
    err: str

    @property
    def result(self) -> Path:
        return self.folder / "figure_textured.glb"


@pytest.fixture(scope="module")
def finished(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(assets, folder, dirs_exist_ok=True)
    front = folder / "views" / "0_front.png"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["texture", str(folder / "figure.glb"), "--image", str(front), *SIZE])
    assert code == 0, err.getvalue()
    return Run(folder, out.getvalue(), err.getvalue())


def test_the_front_view_comes_back(seqtex: Seqtex, finished: Run, tmp_path: Path) -> None:
    assert finished.out.splitlines() == [str(finished.result), f"{finished.result}.seqtex.json"]
    again = textured_views(seqtex, finished.result, tmp_path / "again")
    # Flat colours, one blurred pixel at each of their borders: 6 of 255 is a tenth of what
    # wrong colours differ by (drawn from 40..230, two of them differ by 63 on average).
    front = "0_front.png"
    assert inner_difference(finished.folder / "views" / front, again / front) < 6.0


def test_choices_are_printed(finished: Run) -> None:
    for words in ("axes: y up", "UVs: the author's", "rasterizer: ", "method: project", "IoU 1.0"):
        assert words in finished.err
    assert "seen in a reference" in finished.err


def test_only_the_base_colour_changes(finished: Run) -> None:
    original = finished.folder / "figure.glb"
    before, after = view_bytes(original), view_bytes(finished.result)
    assert len(before) >= 3
    assert after == before
    documents = [
        json.loads(pygltflib.GLTF2().load_binary(str(path)).to_json())
        for path in (original, finished.result)
    ]
    for part in ("scenes", "nodes", "meshes", "accessors"):
        assert documents[0][part] == documents[1][part]
    assert texture_of(finished.result).size == (256, 256)


def test_a_second_reader_finds_the_picture(finished: Run) -> None:
    document = pygltflib.GLTF2().load_binary(str(finished.result))
    texture = document.materials[0].pbrMetallicRoughness.baseColorTexture.index
    view = document.bufferViews[document.images[document.textures[texture].source].bufferView]
    data = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    assert Image.open(io.BytesIO(data)).size == (256, 256)


def test_the_manifest_says_what_was_done(finished: Run) -> None:
    original, front = finished.folder / "figure.glb", finished.folder / "views" / "0_front.png"
    record = read_manifest(Path(f"{finished.result}.seqtex.json"))
    assert record["method"] == "project"
    assert record["settings"]["uv_size"] == 256
    assert record["settings"]["rasterizer"] != "auto"
    assert record["inputs"] == [
        {"role": "mesh", "name": "figure.glb", "sha256": file_sha256(original)},
        {"role": "reference front", "name": "0_front.png", "sha256": file_sha256(front)},
    ]
    assert {"python", "torch", "numpy"} <= set(record["versions"])
    assert all(seconds >= 0 for seconds in record["stage_seconds"].values())
    inside = pygltflib.GLTF2().load_binary(str(finished.result)).asset.extras["seqtex"]
    assert inside == {name: value for name, value in record.items() if name != "stage_seconds"}
    assert str(finished.folder) not in json.dumps(record)


def test_a_second_run_replaces_the_first_and_gives_the_same_bytes(
    seqtex: Seqtex, finished: Run, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    command = ["texture", tmp_path / "figure.glb", "--image", tmp_path / "views" / "0_front.png"]
    again = tmp_path / finished.result.name
    (tmp_path / f"{again.name}.seqtex.json").write_text("{}")
    assert seqtex(*command, *SIZE).code == 0
    assert read_manifest(tmp_path / f"{again.name}.seqtex.json")["method"] == "project"
    assert again.read_bytes() == finished.result.read_bytes()


def test_each_reference_paints_its_own_view(seqtex: Seqtex, work: Path) -> None:
    views = work / "views"
    refs = ["--ref", f"front={views / '0_front.png'}", "--ref", f"back={views / '2_back.png'}"]
    out = work / "two.glb"
    assert seqtex("texture", work / "figure.glb", *refs, *SIZE, "-o", out).code == 0
    again = textured_views(seqtex, out, work / "again")
    assert inner_difference(views / "0_front.png", again / "0_front.png") < 6.0
    assert inner_difference(views / "2_back.png", again / "2_back.png") < 6.0


def test_ref_view_names_the_view_of_the_image(seqtex: Seqtex, work: Path) -> None:
    left = work / "views" / "1_left.png"
    command = ["texture", work / "figure.glb", "--image", left, "--ref-view", "left"]
    assert seqtex(*command, *SIZE).code == 0
    again = textured_views(seqtex, work / "figure_textured.glb", work / "again")
    assert inner_difference(left, again / "1_left.png") < 6.0


def test_min_iou_decides_which_pictures_fit(seqtex: Seqtex, work: Path) -> None:
    """The picture of the left view overlaps the front view's silhouette in part."""
    command = ["texture", work / "figure.glb", "--image", work / "views" / "1_left.png", *SIZE]
    assert seqtex(*command, "--min-iou", "0.01").code == 0
    refused = seqtex(*command, "--min-iou", "1.0")
    assert (refused.code, "IoU >= 1.00" in refused.err) == (3, True)


def test_a_mesh_without_uvs_is_unwrapped(seqtex: Seqtex, work: Path) -> None:
    front = work / "views" / "0_front.png"
    outcome = seqtex("texture", work / "bare.ply", "--image", front, *SIZE)
    assert outcome.code == 0, outcome.err
    assert "UVs: new, made by xatlas" in outcome.err
    bare = trimesh.load(work / "bare.ply", process=False)
    done = trimesh.load(work / "bare_textured.glb", force="mesh", process=False)
    assert np.array_equal(done.vertices[done.faces], bare.vertices[bare.faces].astype(np.float32))
    again = textured_views(seqtex, work / "bare_textured.glb", work / "again")
    assert inner_difference(front, again / "0_front.png") < 6.0


def test_an_obj_gives_an_obj_with_its_files(seqtex: Seqtex, work: Path) -> None:
    mesh = trimesh.load(work / "figure.glb", force="mesh", process=False)
    mesh.export(work / "figure.obj")
    front = work / "views" / "0_front.png"
    out = work / "deep" / "er" / "figure.obj"
    command = ["texture", work / "figure.obj", "--image", front, *SIZE, "-o", out]
    outcome = seqtex(*command)
    assert outcome.code == 0, outcome.err
    suffixes = sorted(path.suffix for path in out.parent.iterdir())
    assert suffixes == [".json", ".mtl", ".obj", ".png"]
    again = textured_views(seqtex, out, work / "again")
    assert inner_difference(front, again / "0_front.png") < 6.0


def test_a_texture_that_no_reference_shows_takes_colours_from_nearby(
    seqtex: Seqtex, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two materials; the second is a box inside the body, which no view sees."""
    monkeypatch.setattr("seqtex.intermediates._PICTURE_SIZE", 64)
    shown = trimesh.load(work / "figure.glb", force="mesh", process=False)
    hidden = trimesh.creation.box(extents=(0.2, 0.2, 0.2))
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=(0, 0, 255, 255))
    uvs = np.array(hidden.vertices[:, :2]) + 0.5
    hidden.visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
    trimesh.Scene([shown, hidden]).export(work / "two.glb")
    front = work / "views" / "0_front.png"
    steps = work / "steps"
    command = ["texture", work / "two.glb", "--image", front, *PROJECT, "--texture-size", "64"]
    outcome = seqtex(*command, "--save-intermediates", steps)
    assert outcome.code == 0, outcome.err
    assert "2 textures" in outcome.err
    names = {path.name for path in (steps / "textures").iterdir()}
    assert names == {"texture0.png", "texture1.png"}
    for name in names:
        pixels = np.asarray(Image.open(steps / "textures" / name))
        assert pixels.min() > 25  # the figure's colours start at 40; black would be "not painted"


def test_intermediates(seqtex: Seqtex, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.intermediates._PICTURE_SIZE", 64)
    steps = work / "steps"
    command = ["texture", work / "figure.glb", "--image", work / "views" / "0_front.png"]
    outcome = seqtex(*command, *PROJECT, "--texture-size", "64", "--save-intermediates", steps)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == str(steps)
    written = {str(path.relative_to(steps)) for path in steps.rglob("*") if path.is_file()}
    expected = {
        "contact_sheet.png",
        "steps.json",
        "references/0_front.png",
        "textures/texture0.png",
    }
    expected |= {f"renders/{n}.png" for n in ("0_front", "1_left", "2_back", "3_right")}
    expected |= {"textures/texture0.png", "maps/uv0_position.png"}
    expected |= {"maps/0_front_depth.png", "maps/3_right_normal.png"}
    assert expected <= written


def stopped(process: Any, number: int, code: int) -> str:
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return str(errors)


def test_an_interrupt_while_reading_leaves_nothing(start: Callable[..., Any], work: Path) -> None:
    os.mkfifo(work / "slow.png")
    before = sorted(work.rglob("*"))
    process = start(["texture", work / "figure.glb", "--image", work / "slow.png"])
    with (work / "slow.png").open("wb"):  # returns once the other side reads
        assert "No file was left half-written" in stopped(process, signal.SIGINT, 130)
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_while_painting_leaves_nothing(
    start: Callable[..., Any], work: Path, number: int, code: int
) -> None:
    before = sorted(work.rglob("*"))
    arguments = ["texture", work / "bare.ply", "--image", work / "views" / "0_front.png"]
    arguments += [*PROJECT, "--texture-size", "4096", "-o", work / "new" / "out.glb"]
    process = start([*arguments, "--save-intermediates", work / "steps"])
    assert any("method: " in line for line in process.stderr)
    stopped(process, number, code)
    assert sorted(work.rglob("*")) == before
