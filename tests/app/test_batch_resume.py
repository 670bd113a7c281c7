"""``seqtex batch`` a second time: what counts as done, and what is made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from batch_runs import FRONT, SMALL, report, requests, summary, write

from seqtex.cli import run
from seqtex.cli.batch_reports import request_key, why_again
from seqtex.cli.text_options import TextRequest
from seqtex.manifest import file_sha256
from seqtex.models.sources import ModelSources

RESULT = "figure_textured.glb"


@pytest.fixture(scope="module")
def first_run(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a batch that is done: ``jobs.jsonl`` with one item, ``out``."""
    folder = tmp_path_factory.mktemp("first") / "run"
    shutil.copytree(assets, folder)
    manifest = write(folder / "jobs.jsonl", {"mesh": "figure.glb", "image": FRONT})
    arguments = ["batch", str(manifest), "-o", str(folder / "out"), "--workers", "0", *SMALL]
    assert run(arguments) == 0
    return folder


@pytest.fixture
def done(first_run: Path, tmp_path: Path) -> Path:
    """A copy of it, which is as much done as the original."""
    return Path(shutil.copytree(first_run, tmp_path / "run"))


def why(work: Path, *shared: str) -> str | None:
    (request,) = requests(work / "jobs.jsonl", *(shared or SMALL))
    return why_again(request, "figure", work / "out")


def test_a_report_knows_every_file_of_its_result(done: Path) -> None:
    files = report(done, "figure")["files"]
    assert sorted(files) == [RESULT, f"{RESULT}.seqtex.json"]
    path = done / "out" / RESULT
    assert files[RESULT] == {"size": path.stat().st_size, "sha256": file_sha256(path)}
    assert why(done) is None


@pytest.mark.parametrize("name", [RESULT, f"{RESULT}.seqtex.json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "gone"])
def test_a_result_that_is_not_whole_is_not_done(done: Path, name: str, damage: str) -> None:
    path = done / "out" / name
    data = path.read_bytes()
    turned = bytes([data[100] ^ 1])
    kept = {"empty": b"", "cut": data[:-1], "changed": data[:100] + turned + data[101:]}
    path.unlink()
    if damage in kept:
        path.write_bytes(kept[damage])
    told = why(done)
    assert told is not None
    assert name in told
    path.write_bytes(data)
    assert why(done) is None, "whole again: nothing but the bytes counts"


def test_it_is_made_again_and_that_is_said(seqtex: Callable[..., Any], done: Path) -> None:
    path = done / "out" / RESULT
    data = path.read_bytes()
    path.write_bytes(b"")
    command = ["batch", done / "jobs.jsonl", "-o", done / "out", "--workers", "0", *SMALL]
    again = seqtex(*command)
    assert again.code == 0
    assert f"line 1 (figure): {path} has 0 bytes, not {len(data)}" in again.err
    assert path.stat().st_size > 0
    assert summary(done)["done"] == ["figure"]
    assert seqtex(*command).out == ""
    path.unlink()
    path.with_name(f"{RESULT}.seqtex.json").unlink()
    (done / "out" / "reports" / "figure.json").unlink()
    assert why(done) == "", "nothing is there, so nothing is made again"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"schema": 2, "name": "figure", "files": {"a": 3}}']
)
def test_a_report_that_cannot_be_read_proves_nothing(done: Path, text: str) -> None:
    (done / "out" / "reports" / "figure.json").write_text(text)
    assert "has no report" in (why(done) or "")


def test_a_report_of_another_item_or_of_a_failure_proves_nothing(done: Path) -> None:
    path = done / "out" / "reports" / "figure.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"name": "other"}))
    assert "has no report" in (why(done) or "")
    path.write_text(json.dumps(record | {"status": "failed"}))
    assert why(done) == ""


def test_what_is_asked_for_counts_and_how_it_is_written_does_not(done: Path) -> None:
    assert why(done, *SMALL, "--min-iou", "0.3") == "other options or input files"
    assert why(done, *SMALL, "--overwrite") is None, "the result would be the same"
    same = {"mesh": "figure.glb", "refs": {"front": FRONT}, "texture-size": 64}
    write(done / "jobs.jsonl", {"mesh": "missing.glb", "image": FRONT, "name": "new"}, same)
    (_, request) = requests(done / "jobs.jsonl", "--method=project")
    assert why_again(request, "figure", done / "out") is None
    picture = done / FRONT
    picture.write_bytes((done / "views" / "2_back.png").read_bytes())
    assert why_again(request, "figure", done / "out") == "other options or input files"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
def test_what_never_ends_is_not_read_to_its_end(done: Path) -> None:
    (request,) = requests(done / "jobs.jsonl", *SMALL)
    assert request_key(request) is not None
    assert request_key(replace(request, mesh=Path("/dev/zero"))) is None


def test_every_option_counts_but_where_files_are_and_whether_others_give_way(done: Path) -> None:
    (request,) = requests(done / "jobs.jsonl", *SMALL)
    places = {"mesh", "image", "refs", "ref_view", "out"}  # what is in the files counts
    others: dict[str, Any] = {"text": TextRequest(text="a"), "sources": ModelSources(weights="w")}
    for option in fields(request):
        if option.name in places:
            continue
        changed = replace(request, **{option.name: others.get(option.name, "another")})
        same = request_key(changed) == request_key(request)
        assert same == (option.name == "overwrite"), option.name


def test_a_folder_of_results_can_be_moved(done: Path) -> None:
    done = done.rename(done.with_name("other"))
    assert why(done) is None
    (done / "out").rename(done / "kept")
    assert why(done) == "", "nothing is there"


def test_weights_in_a_folder_count(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training again into the same folder gives another model under the same name."""
    monkeypatch.setattr("seqtex.cli.texture_request.check_model", lambda *_: None)
    (done / "model").mkdir()
    weights = done / "model" / "model.safetensors"
    weights.write_bytes(b"1")
    (request,) = requests(done / "jobs.jsonl", "--model", str(done / "model"))
    first = request_key(request)
    assert request_key(request) == first
    weights.write_bytes(b"12")
    assert request_key(request) != first


def test_files_beside_a_mesh_and_all_files_of_a_result_count(
    seqtex: Callable[..., Any], work: Path
) -> None:
    """An OBJ has a library beside it; its result is an OBJ, a library and a picture."""
    (work / "a.obj").write_text(
        "mtllib a.mtl\nv -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "usemtl m\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    (work / "a.mtl").write_text("newmtl m\nKd 1 1 1\n")
    assert seqtex("render", work / "a.obj", "-o", work / "seen", "--size", "64").code == 0
    items = [{"mesh": "a.obj", "image": "seen/0_front.png", "name": n} for n in ("a", "b")]
    manifest = write(work / "jobs.jsonl", *items)
    command = ["batch", manifest, "-o", work / "out", "--workers", "0", *SMALL]
    first = seqtex(*command)
    assert first.code == 0, first.err
    places = [work / "out" / n / f"{n}_textured.obj" for n in "ab"]
    assert first.out.split() == [str(place) for place in places], "a folder each"
    library = places[0].with_suffix(".mtl")
    library.write_bytes(library.read_bytes() + b"#")
    second = seqtex(*command)
    assert "1 items to do, 1 of 2 done before" in second.err
    assert f"line 1 (a): {library} has" in second.err
    (work / "a.mtl").write_text("newmtl m\nKd 1 0 1\nKs 1 1 1\n")
    assert seqtex(*command).err.count("other files beside its mesh") == 2
