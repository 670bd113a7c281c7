"""Job preparation and the manifest, as a library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import seqtex
from seqtex.manifest import Manifest, ModelRecord, read_manifest
from seqtex.prepare import choose_device, prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.result import TextureResult
from seqtex.set_maps import SetMaps
from seqtex.stages import StageClock
from seqtex_core.errors import InputError, UnsupportedError, UsageError
from seqtex_geometry.asset import load_asset


def test_the_working_copy_is_normalised_and_on_the_device(assets: Path) -> None:
    job = prepare_job(assets / "figure.glb")
    low, high = job.surface.vertices.amin(0), job.surface.vertices.amax(0)
    assert float((high - low).max()) == pytest.approx(2.0, abs=1e-6)
    # The nose points to +z in the file, so to -y here; it is narrow and in the middle.
    nose = job.surface.vertices[job.surface.vertices[:, 1] < low[1] + 1e-3]
    assert float(nose[:, 0].max() - nose[:, 0].min()) == pytest.approx(0.3 * 2.0 / 1.4, abs=1e-3)
    assert job.cameras.names == ("front", "left", "back", "right")
    assert job.uv_source == "author"
    assert job.num_texture_sets == 1
    assert bool(job.faces_of_set(0).all())
    assert job.settings["rasterizer"] == job.rasterizer.name


def test_an_asset_already_loaded_is_taken_with_its_axes(assets: Path) -> None:
    asset = load_asset(assets / "bare.ply", up="z")
    job = prepare_job(asset, options=PrepareOptions(uv="as_is"))
    assert job.asset is asset
    assert job.choices["axes"] == "z up, -y front (--up)"
    assert job.uv_source == "none"


@pytest.mark.parametrize("mesh", ["figure.glb", "bare.ply"])
def test_unwrapping_makes_one_chart_square(assets: Path, mesh: str) -> None:
    job = prepare_job(assets / mesh, options=PrepareOptions(uv="unwrap"))
    assert job.uv_source == "unwrapped"
    assert job.mesh.face_uvs is not None
    assert np.isfinite(job.mesh.face_uvs).all()
    assert job.num_texture_sets == 1


@pytest.mark.parametrize(
    ("shift", "said"), [((0.0, 0.0), "50% of them"), ((1.0, 0.0), "50%"), ((0.0, 0.5), "")]
)
def test_charts_over_each_other_are_told(
    tmp_path: Path, shift: tuple[float, float], said: str
) -> None:
    """Two squares of half a texture: on each other, in another tile (UDIM), and side by side."""
    lines = [f"v {x} {y} {z}" for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    square = [(0, 0), (1, 0), (1, 0.5), (0, 0.5)]
    lines += [f"vt {u} {v}" for u, v in square]
    lines += [f"vt {u + shift[0]} {v + shift[1]}" for u, v in square]
    lines += ["f 1/1 2/2 3/3 4/4", "f 5/5 6/6 7/7 8/8"]
    path = tmp_path / "a.obj"
    path.write_text("\n".join(lines))
    sentence = prepare_job(path, options=PrepareOptions(uv="keep")).choices["UVs"]
    assert ("share texels" in sentence) == bool(said)
    assert said in sentence


@pytest.mark.parametrize(
    ("tile", "size", "offset", "tiles"),
    [
        ((1, 0), 0.8, 0.1, 2),  # charts of another shape in tile 1002
        ((3, 2), 0.8, 0.1, 2),
        ((1, 0), 1.0, 0.0, 0),  # the same charts, moved aside
        ((1, 0), 0.3, 0.6, 0),  # charts that fit beside the others
        ((-1, 0), 0.8, 0.1, 0),  # no tile has that number
        ((0, 0), 0.8, 0.1, 0),  # charts over each other, in one tile
    ],
)
def test_tiles_of_one_layout_are_refused(
    tmp_path: Path, tile: tuple[int, int], size: float, offset: float, tiles: int
) -> None:
    lines = [f"v {x} {y} {z}" for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    lines += [f"vt {0.55 * u} {0.55 * v}" for u, v in square]
    lines += [
        f"vt {tile[0] + offset + 0.55 * size * u} {tile[1] + offset + 0.55 * size * v}"
        for u, v in square
    ]
    lines += ["f 1/1 2/2 3/3 4/4", "f 5/5 6/6 7/7 8/8"]
    path = tmp_path / "a.obj"
    path.write_text("\n".join(lines))
    for mode in ("auto", "keep", "unwrap"):
        options = PrepareOptions(uv=mode)  # type: ignore[arg-type]
        if not tiles or mode != "auto":
            assert prepare_job(path, options=options).num_texture_sets == 1
            continue
        with pytest.raises(InputError, match=r"2 tiles \(UDIM\)") as caught:
            prepare_job(path, options=options)
        assert "--unwrap" in str(caught.value)


@pytest.mark.parametrize("name", ["coat.<UDIM>.png", "coat.png"])
def test_images_that_are_not_there_do_not_matter(tmp_path: Path, name: str) -> None:
    """Only that there is one for each tile: all tiles would share one texture."""
    (tmp_path / "m.mtl").write_text(f"newmtl a\nmap_Kd {name}\n")
    text = "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\n"
    path = tmp_path / "a.obj"
    path.write_text(text + "f 1/1 2/2 3/3\nf 1/1 3/3 4/2\n")
    assert prepare_job(path, options=PrepareOptions(uv="unwrap")).num_texture_sets == 1
    if "UDIM" not in name:
        assert prepare_job(path).uv_source == "author"
        with pytest.raises(InputError, match=r"coat\.png"):
            prepare_job(path, options=PrepareOptions(uv="as_is"))
        return
    with pytest.raises(InputError, match="--unwrap") as caught:
        prepare_job(path)
    assert "UDIM" in str(caught.value)


def test_keep_refuses_a_mesh_without_uvs(assets: Path) -> None:
    with pytest.raises(InputError, match="--keep-uv"):
        prepare_job(assets / "bare.ply", options=PrepareOptions(uv="keep"))


def test_stages_are_reported_and_timed(assets: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    image = Image.open(assets / "views" / "0_front.png")
    job = prepare_job(
        assets / "figure.glb", {"front": image}, on_progress=lambda *step: seen.append(step)
    )
    assert seen == [
        ("Load", 0, 1), ("Load", 1, 1), ("Check references", 0, 1), ("Check references", 1, 1)
    ]  # fmt: skip
    assert list(job.stage_seconds) == ["Load", "Check references"]
    assert job.inputs[1].name == "<image>"


def test_a_clock_adds_up_and_reports_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    clock = StageClock(lambda *step: seen.append(step))
    for _ in range(2):
        with clock.stage("a", 3) as step:
            step(1)
            step(3)  # the end is reported when the block ends, not before
    assert seen == [("a", 0, 3), ("a", 1, 3), ("a", 2, 3), ("a", 3, 3)] * 2
    assert clock.times["a"] > 0


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="--device"):
        choose_device("gpu")
    with pytest.raises(UnsupportedError, match="--device cpu runs everywhere"):
        choose_device("cuda:77")


def test_a_result_refuses_textures_that_do_not_fit(assets: Path) -> None:
    job = prepare_job(assets / "figure.glb")
    good = torch.zeros(3, 8, 8)
    for textures in [(good, good), (good[0],), (good * torch.nan,), (torch.zeros(4, 8, 8),)]:
        with pytest.raises(UsageError, match="textures"):
            TextureResult.of(job, textures, method="project", settings={})


def test_a_result_without_textures_is_not_saved(assets: Path, tmp_path: Path) -> None:
    job = prepare_job(assets / "figure.glb")
    result = TextureResult.of(job, (), method="model", settings={}, views=torch.zeros(4, 3, 8, 8))
    with pytest.raises(UsageError, match="views only"):
        result.save(tmp_path / "a.glb")
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_in_the_manifest(assets: Path, tmp_path: Path) -> None:
    job = prepare_job(assets / "figure.glb")
    record = ModelRecord(name="m", sha256="0" * 64, notes=("untrained",))
    result = TextureResult.of(
        job, (torch.rand(3, 16, 16),), method="model", settings={"steps": 4}
    ).with_model(record, task="img2tex", seed=5)
    saved = result.save(tmp_path / "a.glb")
    stored = read_manifest(saved.manifest)
    assert stored["model"] == {"name": "m", "sha256": "0" * 64, "notes": ["untrained"]}
    assert (stored["task"], stored["seed"], stored["settings"]["steps"]) == ("img2tex", 5, 4)
    assert "Export and verify" in stored["stage_seconds"]


def test_a_saved_texture_is_the_texture_to_eight_bits(assets: Path, tmp_path: Path) -> None:
    job = prepare_job(assets / "figure.glb")
    texture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = TextureResult.of(job, (texture,), method="project", settings={})
    result.save(tmp_path / "a.glb")
    image = load_asset(tmp_path / "a.glb").mesh.materials[0].base_color_image
    assert image is not None
    stored = torch.tensor(image[..., :3]).permute(2, 0, 1) / 255.0
    assert float((stored - texture).abs().max()) <= 0.5 / 255 + 1e-6


def test_reading_a_manifest_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema": 99}')
    (tmp_path / "b.json").write_text("not json")
    for name in ("a.json", "b.json", "missing.json"):
        with pytest.raises(InputError, match=name):
            read_manifest(tmp_path / name)


def test_manifests_survive_the_disk(tmp_path: Path) -> None:
    manifest = Manifest(
        method="project", settings={"a": 1}, inputs=(), choices={}, stage_seconds={"x": 0.12345}
    )
    manifest.write(tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == manifest.to_json()
    assert manifest.to_json()["stage_seconds"] == {"x": 0.123}


def test_public_names_can_be_imported_and_listed() -> None:
    for name in seqtex.__all__:
        assert getattr(seqtex, name).__name__ == name
        assert name in dir(seqtex)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        seqtex.nothing_of_this_name  # noqa: B018


def test_who_cuts_the_surface_is_said_and_recorded(seqtex: Callable[..., Any], work: Path) -> None:
    command = ["texture", work / "bare.ply", "--image", work / "views" / "0_front.png"]
    command += ["--method", "project", "--texture-size", "64"]
    for given, said in (("directions", "cut by direction"), ("auto", "made by xatlas")):
        outcome = seqtex(*command, "--charts", given)
        assert outcome.code == 0, outcome.err
        assert said in outcome.err
        record = json.loads((work / "bare_textured.glb.seqtex.json").read_text())
        assert record["settings"]["charts"] == ("xatlas" if given == "auto" else given)
    refused = seqtex(*command, "--charts", "magic")
    assert refused.code == 2
    assert "auto, xatlas, directions" in refused.err


@pytest.mark.parametrize("count", [1, 12])
def test_many_textures_are_told(tmp_path: Path, count: int) -> None:
    """Materials whose UVs lie over each other cannot share one."""
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\n"
    for index in range(count):
        text += f"usemtl m{index}\nf 1/1 2/2 3/3\nf 1/1 3/3 4/2\n"
    (tmp_path / "a.obj").write_text(text)
    job = prepare_job(tmp_path / "a.obj")
    assert job.num_texture_sets == count
    assert ("--unwrap makes one" in job.choices["UVs"]) == (count > 1)


def test_maps_of_texture_sets_are_made_when_they_are_looked_at(assets: Path) -> None:
    job = prepare_job(assets / "figure.glb")
    maps = SetMaps(job, 32)
    assert len(maps) == 1
    assert torch.equal(maps[0].position, job.uv_maps(32).position)
    assert [one.size for one in maps] == [(32, 32)] == [one.size for one in maps[:]]
    with pytest.raises(IndexError):
        maps[1]
