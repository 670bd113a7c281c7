"""Real meshes as training data: what is in the shards, what is listed, what is done again."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import MODEL, make_run, tiny_config

from seqtex.data.mesh_files import captions_beside, find_meshes, read_caption_table
from seqtex.data.preparation import Preparation, prepare_meshes
from seqtex.data.real_mesh import ChartOptions
from seqtex.data.real_sample import SampleOptions, prepare_mesh
from seqtex.data.record import GeometryRecord, RecordSizes
from seqtex.data.sample import ObjectSample
from seqtex.data.stream import ShardStream, StreamedSample, decoded
from seqtex.data.worker_processes import in_processes, results_in_processes
from seqtex.training import trainer
from seqtex.training.batch import SourceContext
from seqtex.training.config import DataSection, StageSection, TrainingConfig
from seqtex.training.shard_source import ShardSource
from seqtex.training.trainable import part_of
from seqtex_core.errors import ContractError, InputError, UsageError
from seqtex_core.tasks import TEXTURE, VIEWS
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.sampling import linear_to_srgb

SIZES = RecordSizes(view_size=16, uv_size=32, supersample=1)
OPTIONS = SampleOptions(sizes=SIZES)


def rainbow_box() -> trimesh.Trimesh:
    """A box without UVs; its linear colour is the position between its lowest, highest corner."""
    box = trimesh.creation.box(extents=(1.0, 0.8, 0.6))
    low, high = box.bounds
    colours = np.round((box.vertices - low) / (high - low)) * 255
    box.visual.vertex_colors = np.c_[colours, np.full(len(colours), 255)].astype(np.uint8)
    return box


@pytest.fixture(scope="module")
def meshes(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textured, vertex-coloured, plain and three broken files, some with captions."""
    folder = tmp_path_factory.mktemp("meshes")
    (folder / "figure.glb").write_bytes((assets / "figure.glb").read_bytes())
    (folder / "figure.json").write_text('{"captions": {"short": "a figure", "tags": "box nose"}}')
    rainbow_box().export(folder / "rainbow.ply")
    (folder / "deep").mkdir()
    trimesh.creation.icosphere(subdivisions=1).export(folder / "deep" / "plain.stl")
    (folder / "deep" / "plain.txt").write_text("a white ball\n\n a ball \n")
    (folder / "broken.glb").write_bytes(b"glTF and then nothing")
    (folder / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "empty.obj").write_text("v 0 0 0\n")
    (folder / ".hidden.obj").write_text("v 0 0 0\n")
    return folder


@pytest.fixture(scope="module")
def prepared(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare_meshes(Preparation(source=meshes, folder=folder, options=OPTIONS), workers=0)
    return folder


@pytest.fixture(scope="module")
def samples(prepared: Path) -> dict[str, StreamedSample]:
    return {s.meta["file"]: s for s in ShardStream(prepared, shuffle_buffer=0)}


def report(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "report.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


def test_every_file_is_accounted_for(prepared: Path) -> None:
    found = report(prepared)
    assert {name: entry["status"] for name, entry in found.items()} == {
        "broken.glb": "bad",
        "deep/plain.stl": "views",
        "empty.obj": "bad",
        "figure.glb": "textured",
        "nan.obj": "bad",
        "rainbow.ply": "textured",
    }
    assert "finite" in found["nan.obj"]["reason"]
    assert "no faces" in found["empty.obj"]["reason"]
    assert "one colour" in found["deep/plain.stl"]["reason"]
    assert (found["figure.glb"]["charts"], found["rainbow.ply"]["charts"]) == ("author", "new")


def test_samples_stream_with_all_their_parts(samples: dict[str, StreamedSample]) -> None:
    pictures = {f"{kind}{k}" for kind in ("view", "lit") for k in range(4)}
    figure, plain = samples["figure.glb"], samples["deep/plain.stl"]
    assert set(figure.images) == pictures | {"uv"}
    assert set(plain.images) == pictures
    assert figure.meta["captions"] == {"short": "a figure", "tags": "box nose"}
    assert plain.meta["captions"] == {"0": "a white ball", "1": "a ball"}
    cameras = figure.meta["cameras"]
    assert cameras["names"] == ["front", "left", "back", "right"]
    assert np.array(cameras["world_to_camera"]).shape == (4, 4, 4)
    assert not torch.equal(figure.images["lit0"], figure.images["view0"])


def test_pictures_show_the_colours_of_the_surface(samples: dict[str, StreamedSample]) -> None:
    sample = samples["rainbow.ply"]
    record = GeometryRecord.from_tensors(sample.tensors, source="rainbow")
    maps = ObjectSample(record, SIZES).maps()
    views = torch.stack([sample.images[f"view{k}"] for k in range(4)])
    low, high = (torch.tensor(v).view(3, 1, 1) for v in ([-1, -0.6, -0.8], [1, 0.6, 0.8]))
    for position, mask, image in (
        (maps.uv_position, maps.uv_mask, sample.images["uv"]),
        (maps.view_position, maps.view_mask, views),
    ):
        # Working axes: the file's x, -z, y; colours follow the file's x, y, z.
        own = ((position - low) / (high - low)).clamp(0, 1)
        x, back, y = own.unbind(-3)
        expected = linear_to_srgb(torch.stack([x, y, 1 - back], dim=-3)) * mask
        # 8-bit rounding, and positions in steps of 1/32767 under the slope 12.92 of dark sRGB
        # over a range of 1.2.
        assert (image - expected).abs().max() < 0.5 / 255 + 12.92 / 32767 / 1.2
        assert mask.sum() > 100


def test_a_textured_mesh_looks_like_its_renders(meshes: Path) -> None:
    """The texture, read where the views see it, gives the views' colours: one for each face."""
    sizes = RecordSizes(view_size=64, uv_size=64, supersample=1)
    made = prepare_mesh(
        meshes,
        "figure.glb",
        0,
        SampleOptions(sizes=sizes, lightings=2),
        captions={},
        rasterizer=choose_rasterizer("auto"),
    )
    sample = decoded("figure", made.members)
    record = GeometryRecord.from_tensors(sample.tensors, source="figure")
    points = ObjectSample(record, sizes)
    texels = sample.images["uv"].flatten(1).T[record.uv_index()]
    assert len(torch.unique((texels * 255).round(), dim=0)) > 70  # about as many as faces
    count = points.num_view_samples
    normal = 0.2 * points.normal
    features = torch.cat([points.position, normal], dim=1)
    near, texel = torch.cdist(features[:count], features[count:]).min(dim=1)
    views = torch.stack([sample.images[f"view{k}"] for k in range(4)])
    seen = views.permute(0, 2, 3, 1).reshape(-1, 3)[record.view_index()]
    same = ((seen - texels[texel]).abs().amax(dim=1) < 0.02)[near < 0.03]
    assert len(same) > 500
    assert same.float().mean() > 0.85  # near edges the closest texel lies in the face beside
    lit = [torch.stack([sample.images[f"lit{k}{n}"] for k in range(4)]) for n in ("", "-1")]
    assert not torch.equal(lit[0], lit[1])


def test_charts_that_overlap_are_not_kept(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    uvs = np.tile([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]], (len(box.faces), 1))
    noise = Image.effect_noise((32, 32), 90).convert("RGB")
    image = trimesh.visual.material.PBRMaterial(baseColorTexture=noise)
    folded = trimesh.Trimesh(
        box.vertices[box.faces].reshape(-1, 3),
        np.arange(3 * len(box.faces)).reshape(-1, 3),
        visual=trimesh.visual.TextureVisuals(uv=uvs, material=image),
        process=False,
    )
    (tmp_path / "in").mkdir()
    folded.export(tmp_path / "in" / "folded.glb")
    for mode, status, charts in (("author", "views", "none"), ("auto", "textured", "new")):
        options = replace(OPTIONS, charts=ChartOptions(mode=mode))  # type: ignore[arg-type]
        made = prepare_meshes(
            Preparation(source=tmp_path / "in", folder=tmp_path / mode, options=options), workers=0
        )
        assert (made[0]["status"], made[0]["charts"]) == (status, charts)
        assert any("lies over other charts" in note for note in made[0]["notes"])


def test_a_stopped_run_is_continued_and_ranks_make_the_same(meshes: Path, tmp_path: Path) -> None:
    whole = Preparation(source=meshes, folder=tmp_path / "a", options=OPTIONS, per_shard=2)
    prepare_meshes(whole, workers=0)
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").glob("*.tar")}
    assert sorted(files) == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    first = (tmp_path / "a" / "shard-00000.tar").stat().st_mtime_ns
    (tmp_path / "a" / "shard-00001.jsonl").unlink()  # as if it had been stopped before
    (tmp_path / "a" / "shard-00001.tar").unlink()
    done: list[tuple[int, int]] = []
    prepare_meshes(whole, workers=0, on_progress=lambda stage, n, of: done.append((n, of)))
    assert done == [(4, 6), (5, 6), (6, 6)]
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").glob("*.tar")} == files
    assert (tmp_path / "a" / "shard-00000.tar").stat().st_mtime_ns == first
    with pytest.raises(UsageError, match="settings"):
        prepare_meshes(replace(whole, options=replace(OPTIONS, seed=1)), workers=0)

    for rank in (1, 0):
        share = replace(whole, folder=tmp_path / "b", rank=rank, world_size=2)
        entries = prepare_meshes(share, workers=0)
        assert len(entries) == (2 if rank else 6)
    assert {p.name: p.read_bytes() for p in (tmp_path / "b").glob("*.tar")} == files


def test_jobs_that_crash_or_hang_cost_only_themselves() -> None:
    harmless = signal.SIGCHLD  # ignored, so that the job returns
    jobs = [harmless, signal.SIGKILL, signal.SIGSEGV, harmless]
    ends = in_processes(jobs, signal.raise_signal, workers=2, timeout_s=60)
    failures = sorted(end.failure for end in ends)
    assert failures[:2] == ["", ""]
    assert "SIGKILL" in failures[2]
    assert "SIGSEGV" in failures[3]
    slow = in_processes([0.0, 60.0, 0.0], time.sleep, workers=1, timeout_s=2)
    assert [end.failure for end in slow] == ["", "not done within 2 s", ""]


def test_results_that_are_all_needed_come_whole_or_end_in_an_error() -> None:
    results = results_in_processes([4, 9], math.sqrt, workers=1)
    assert dict(results) == {4: 2.0, 9: 3.0}
    with pytest.raises(ValueError, match="math domain error"):
        list(results_in_processes([4, -1], math.sqrt, workers=1))
    killed = results_in_processes(
        [signal.SIGKILL], signal.raise_signal, workers=1, name=lambda job: "file one"
    )
    with pytest.raises(ContractError, match=r"file one.*SIGKILL.*fewer --workers"):
        list(killed)


def test_captions_are_read_or_refused(tmp_path: Path) -> None:
    mesh = tmp_path / "chair.obj"
    for content, expected in (
        ('["a chair", "a seat"]', {"0": "a chair", "1": "a seat"}),
        ('{"caption": " a  chair "}', {"0": "a chair"}),
        ('{"captions": {"a": "x", "b": " "}}', {"a": "x"}),
        ('{"author": "somebody"}', {}),
        ("not json", {}),
    ):
        mesh.with_suffix(".json").write_text(content)
        found, notes = captions_beside(mesh)
        assert found == expected
        assert bool(notes) == (not expected)
    table = tmp_path / "captions.jsonl"
    table.write_text(
        '{"file": "a.glb", "captions": {"s": "x"}}\n\n{"file": "b/c.obj", "caption": "y"}'
    )
    assert read_caption_table(table) == {"a.glb": {"s": "x"}, "b/c.obj": {"0": "y"}}
    table.write_text('{"file": "a.glb"}\n')
    with pytest.raises(InputError, match="line 1"):
        read_caption_table(table)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none"):
        find_meshes(tmp_path / "none")


def config_for(prepared: Path, tasks: dict[str, float], steps: int) -> TrainingConfig:
    base = tiny_config()
    overrides = {**MODEL, "view_size": 16, "uv_size": 32, "supersample": 1}
    return replace(
        base,
        model=replace(base.model, overrides=overrides),
        data=DataSection(source="shards", options={"path": str(prepared)}),
        stages=(StageSection(steps=steps, tasks=tasks, learning_rate=1e-3, warmup_steps=1),),
    )


def test_views_only_join_geo2mv_and_leave_the_uv_branch_alone(
    prepared: Path, tmp_path: Path
) -> None:
    context = SourceContext(seed=0, view_size=16, uv_size=32, supersample=1)
    source = ShardSource({"path": str(prepared)}, context)
    assert source.batch(range(3), "geo2mv").groups[VIEWS].images.shape[0] == 3
    named = {key.rpartition("-")[2] for key in source.batch(range(3), "geo2mv").geometry_keys or ()}
    full = {key.rpartition("-")[2] for key in source.batch(range(9), "img2tex").geometry_keys or ()}
    assert len(named) == 3
    assert full < named

    run = make_run(config_for(prepared, {"geo2mv": 1}, 2), tmp_path)
    uv = {n for n in run.state.parameters if part_of(n) == "UV branch"}
    assert uv
    before = {name: value.detach().clone() for name, value in run.state.parameters.items()}
    trainer.train(run, resume=False, say=lambda text: None)
    changed = {n for n, value in run.state.parameters.items() if not torch.equal(value, before[n])}
    assert changed
    assert not changed & uv


def test_a_set_without_textures_cannot_train_them(meshes: Path, tmp_path: Path) -> None:
    for name in ("plain.stl", "plain.txt"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes((meshes / "deep" / name).read_bytes())
    prepare_meshes(
        Preparation(source=tmp_path / "in", folder=tmp_path / "set", options=OPTIONS), workers=0
    )
    context = SourceContext(seed=0, view_size=16, uv_size=32, supersample=1)
    source = ShardSource({"path": str(tmp_path / "set")}, context)
    assert TEXTURE not in source.preview(1).groups
    with pytest.raises(InputError, match="views only"):
        source.batch([0], "img2tex")


def test_the_command_prepares_and_the_result_trains(
    meshes: Path, prepared: Path, tmp_path: Path, seqtex: Callable[..., Any]
) -> None:
    out = tmp_path / "set"
    sizes = ("--view-size", "16", "--uv-size", "32", "--supersample", "1")
    made = seqtex("data", "prepare", meshes, "-o", out, *sizes)
    assert made.code == 0, made.err
    assert "2 textured, 1 views only, 0 skipped, 3 bad of 6 meshes" in made.out
    assert "bad: nan.obj: " in made.out
    shard = "shard-00000.tar"  # worker processes make what this process makes
    assert (out / shard).read_bytes() == (prepared / shard).read_bytes()
    strict = seqtex("data", "prepare", meshes, "-o", out, *sizes, "--strict")
    assert strict.code == 3
    assert "3 bad of 6" in strict.err

    smoke = Path(__file__).parents[2] / "configs" / "smoke.toml"
    config = tmp_path / "two.toml"
    text = smoke.read_text().replace('source = "sphere"', 'source = "shards"')
    config.write_text(text + '\n[data.options]\npath = "set"\n')
    run = tmp_path / "run"
    trained = seqtex(
        "train",
        config,
        "-o",
        run,
        "--set",
        "stages=[{steps=2, tasks={img2tex=1}, learning_rate=1e-3}]",
    )
    assert trained.code == 0, trained.err
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "event" not in r] == [1, 2]
    assert (run / "model" / "model.safetensors").is_file()


def test_a_folder_of_bad_meshes_is_an_error(tmp_path: Path, seqtex: Callable[..., Any]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.obj").write_text("v 0 0 0\n")
    found = seqtex("data", "prepare", tmp_path / "in", "-o", tmp_path / "out")
    assert found.code == 3
    assert "report.jsonl" in found.err
    assert seqtex("data", "prepare", tmp_path / "lost", "-o", tmp_path / "out").code == 3


def test_options_decide_what_is_left_out_and_captions_are_joined(
    meshes: Path, tmp_path: Path
) -> None:
    table = tmp_path / "captions.jsonl"
    table.write_text('{"file": "figure.glb", "captions": {"short": "a man", "new": "a toy"}}\n')
    preparation = Preparation(
        source=meshes,
        folder=tmp_path / "set",
        options=replace(OPTIONS, skip_plain=True),
        captions=table,
    )
    made = {entry["file"]: entry for entry in prepare_meshes(preparation, workers=0)}
    assert made["deep/plain.stl"]["status"] == "skipped"
    samples = {s.meta["file"]: s for s in ShardStream(tmp_path / "set", shuffle_buffer=0)}
    assert set(samples) == {"figure.glb", "rainbow.ply"}
    captions = samples["figure.glb"].meta["captions"]
    assert captions == {"short": "a man", "tags": "box nose", "new": "a toy"}
    small = replace(preparation, folder=tmp_path / "b", options=replace(OPTIONS, max_faces=75))
    reasons = {entry["file"]: entry["reason"] for entry in prepare_meshes(small, workers=0)}
    assert reasons["deep/plain.stl"] == "faces: expected at most 75, got 80"
    assert reasons["figure.glb"] == ""  # 72 faces
    table.write_text('{"file": "figure.glb", "captions": {"short": "a woman", "new": "a toy"}}\n')
    with pytest.raises(UsageError, match=r"a set that differs in captions\.figure\.glb\.short"):
        prepare_meshes(preparation, workers=0)
    table.write_text('{"file": "figur.glb", "caption": "x"}\n')
    with pytest.raises(UsageError, match="figur"):
        prepare_meshes(replace(preparation, folder=tmp_path / "other"), workers=0)
