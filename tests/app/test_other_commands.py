"""``seqtex maps``, ``seqtex render``, ``seqtex info``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Seqtex = Callable[..., Any]
VIEWS = ("0_front", "1_left", "2_back", "3_right")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_maps_writes_every_kind(seqtex: Seqtex, work: Path) -> None:
    out = work / "maps"
    sizes = ["--view-size", "64", "--uv-size", "96"]
    outcome = seqtex("maps", work / "figure.glb", "-o", out, *sizes)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [str(out)]
    kinds = ("position", "normal", "mask", "depth")
    expected = {f"{view}_{kind}.png" for view in VIEWS for kind in kinds}
    expected |= {f"uv0_{kind}.png" for kind in kinds[:3]}
    expected |= {"contact_sheet.png", "contact_sheet_uv0.png", "maps.json"}
    assert {path.name for path in out.iterdir()} == expected
    assert pixels(out / "0_front_position.png").shape == (64, 64, 3)
    assert pixels(out / "uv0_normal.png").shape == (96, 96, 3)


def test_maps_mean_what_the_record_says(seqtex: Seqtex, work: Path) -> None:
    """Positions in the file lie at the depth in the file, by the camera in the record."""
    out = work / "maps"
    sizes = ["--view-size", "64", "--uv-size", "32"]
    assert seqtex("maps", work / "figure.glb", "-o", out, *sizes).code == 0
    record = json.loads((out / "maps.json").read_text())
    for index, view in enumerate(VIEWS):
        inner = pixels(out / f"{view}_mask.png") == 255
        position = pixels(out / f"{view}_position.png")[inner] / 255.0 * 2 - 1
        depth = pixels(out / f"{view}_depth.png")[inner] / 65535 * record["depth_full_scale"]
        camera = np.array(record["cameras"]["world_to_camera"][index])
        along = -(position @ camera[2, :3] + camera[2, 3])
        assert inner.sum() > 100
        # 8 bits of a coordinate in [-1, 1]: at most half a step of 2/255 per axis.
        worst = np.abs(camera[2, :3]).sum() / 255
        # A pixel whose samples lie on two faces mixes their positions: not at these 5%.
        assert np.quantile(np.abs(along - depth), 0.95) < worst + 0.01


def test_maps_of_a_mesh_without_uvs_shows_new_ones(seqtex: Seqtex, work: Path) -> None:
    out = work / "maps"
    outcome = seqtex("maps", work / "bare.ply", "-o", out, "--view-size", "32", "--uv-size", "64")
    assert outcome.code == 0
    assert "xatlas" in outcome.err
    assert (pixels(out / "uv0_mask.png") == 255).mean() > 0.2


def test_render_writes_views_that_sort_front_first(work: Path) -> None:
    names = sorted(path.name for path in (work / "views").glob("*.png"))
    assert names == [f"{view}.png" for view in VIEWS]
    front = pixels(work / "views" / "0_front.png")
    assert front.shape == (128, 128, 4)
    assert front[0, 0, 3] == 0
    assert front[64, 64, 3] == 255


@pytest.mark.parametrize(("background", "colour"), [("white", 255), ("black", 0)])
def test_render_options(seqtex: Seqtex, work: Path, background: str, colour: int) -> None:
    out = work / "out"
    options = ["--size", "48", "--views", "left,front", "--background", background]
    outcome = seqtex("render", work / "bare.ply", "-o", out, *options, "--contact-sheet")
    assert outcome.code == 0, outcome.err
    written = sorted(path.name for path in out.iterdir())
    assert written == ["0_front.png", "1_left.png", "contact_sheet.png", "render.json"]
    assert set(np.unique(pixels(out / "1_left.png")[:2, :2, :3])) == {colour}
    assert "UVs: none" in outcome.err


def test_shading_changes_the_colours_but_not_the_outline(seqtex: Seqtex, work: Path) -> None:
    command = ["render", work / "bare.ply", "--size", "64", "--views", "front"]
    assert seqtex(*command, "-o", work / "flat").code == 0
    assert seqtex(*command, "-o", work / "lit", "--shading", "shaded").code == 0
    flat, lit = (pixels(work / name / "0_front.png") for name in ("flat", "lit"))
    inside = flat[..., 3] == 255
    assert np.array_equal(flat[..., 3], lit[..., 3])
    assert (flat[inside][:, :3] == 255).all()
    assert len(np.unique(lit[inside][:, 0])) > 3


def test_the_axes_options_turn_the_object(seqtex: Seqtex, work: Path) -> None:
    """Facing +x instead of +z, the old left view becomes the front view."""
    out = work / "turned"
    command = ["render", work / "figure.glb", "-o", out, "--size", "128", "--front", "x"]
    outcome = seqtex(*command)
    assert outcome.code == 0
    assert "x front (--front)" in outcome.err
    assert np.array_equal(pixels(out / "0_front.png"), pixels(work / "views" / "1_left.png"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--views", "front,top"], "front, left, back, right"),
        (["--shading", "unlitt"], "Did you mean 'unlit'?"),
        (["--background", "grey"], "transparent, white, black"),
        (["--size", "9000"], "16 to 8192"),
    ],
)
def test_bad_render_options(seqtex: Seqtex, work: Path, options: list[str], says: str) -> None:
    outcome = seqtex("render", work / "figure.glb", "-o", work / "out", *options)
    assert outcome.code == 2
    assert says in outcome.err
    assert not (work / "out").exists()


def test_a_second_run_replaces_the_first(seqtex: Seqtex, work: Path) -> None:
    command = ["render", work / "figure.glb", "-o", work / "views", "--size", "32"]
    assert seqtex(*command).code == 0
    assert pixels(work / "views" / "0_front.png").shape[0] == 32


def test_info_as_json_lists_every_part_with_its_reason(seqtex: Seqtex) -> None:
    outcome = seqtex("info", "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert {"embree", "reference", "warp", "kaolin"} <= set(report["rasterizers"])
    assert report["rasterizers"]["reference"] is None
    assert report["attention"]["reference"] is None
    assert report["kernels"]["plain"] is None
    assert {"img2tex", "geo2mv", "mv2tex", "tex2mv"} <= set(report["tasks"])
    assert "seqtex-tiny" in report["models"]
    assert report["versions"]["python"].count(".") == 2
    for section in ("backbones", "codecs", "samplers", "devices"):
        assert report[section], section


def test_info_prints_every_name_and_reason(seqtex: Seqtex) -> None:
    report = json.loads(seqtex("info", "--json").out)
    text = " ".join(seqtex("info").out.split())
    for section, rows in report.items():
        assert section in text
        for name, value in rows.items():
            assert name in text
            if isinstance(value, str) and len(value) < 40:
                assert value in text
