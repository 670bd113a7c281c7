"""``seqtex batch``: manifests, resuming, failing items, workers, interrupts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqtex.cli import batch_work
from seqtex.cli.batch import _take_request
from seqtex.cli.batch_manifest import ItemParser, read_manifest_items
from seqtex.cli.batch_run import BatchRun
from seqtex.cli.batch_work import BatchJob, do_item
from seqtex.cli.texture import texture
from seqtex.cli.texture_request import TextureRequest
from seqtex.cli.texture_run import run_sizes
from seqtex.data.worker_processes import JobEnd
from seqtex.manifest import read_manifest
from seqtex_core.errors import InputError, SeqTexError, UsageError

FRONT = "views/0_front.png"
SMALL = ("--method", "project", "--texture-size", "64")


def write(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def requests(manifest: Path, *shared: str) -> list[TextureRequest]:
    items = read_manifest_items(manifest)
    out = manifest.parent / "out"
    return ItemParser(_take_request, texture, manifest=manifest, out=out, shared=shared).requests(
        items
    )


def summary(work: Path, name: str = "summary.json") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((work / "out" / name).read_text())
    return record


# --- manifests ---------------------------------------------------------------------------------


def test_json_lines_and_csv_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.cli.text_options.TextRequest.check", lambda self: None)
    lines = write(
        tmp_path / "jobs.jsonl",
        {"mesh": "a/chair.glb", "image": "chair.png", "seed": 3, "foreground": False},
        {"mesh": "b/chair.obj", "name": "other", "refs": {"front": "f.png", "back": "b.png"}},
        {
            "mesh": "lamp.glb",
            "text": "a lamp",
            "image_model": "black-forest-labs/FLUX.1-Depth-dev",
            "out": "lamps/1.glb",
            "unwrap": True,
        },
    )
    table = tmp_path / "jobs.csv"
    table.write_text(
        "mesh,name,image,seed,foreground,ref.front,ref.back,text,image_model,out,unwrap\n"
        "a/chair.glb,,chair.png,3,false,,,,,,\n"
        "b/chair.obj,other,,,,f.png,b.png,,,,\n"
        "lamp.glb,,,,,,,a lamp,black-forest-labs/FLUX.1-Depth-dev,lamps/1.glb,true\n"
    )
    shared = ("--model", "seqtex-tiny", "--steps", "2", "--seed", "9")
    first, second, third = requests(lines, *shared)
    assert requests(table, *shared) == [first, second, third]
    assert [r.steps for r in (first, second, third)] == [2, 2, 2]
    assert (first.mesh, first.image) == (tmp_path / "a" / "chair.glb", tmp_path / "chair.png")
    assert (first.seed, second.seed) == (3, 9), "an item's own options come last"
    assert (first.foreground, second.foreground) == (False, None)
    assert first.out == tmp_path / "out" / "chair_textured.glb"
    assert second.out == tmp_path / "out" / "other_textured.obj"
    assert second.refs == (f"front={tmp_path}/f.png", f"back={tmp_path}/b.png")
    assert third.out == tmp_path / "out" / "lamps" / "1.glb"
    assert third.text is not None
    assert third.uv == "unwrap"
    assert run_sizes([first, second]).uv_size is None


def test_intermediates_of_all_items_have_a_folder_each(tmp_path: Path) -> None:
    manifest = write(tmp_path / "jobs.jsonl", {"mesh": "a.glb", "image": "a.png"})
    assert requests(manifest, "--save-intermediates", "steps")[0].save_intermediates == Path(
        "steps/a"
    )


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"image": "a.png"}], 'line 1.*"mesh"'),
        ([{"mesh": "a.glb"}, {"mesh": "b/a.glb"}], "line 2.*'a', as in line 1"),
        ([{"mesh": "a.glb", "name": "../a"}], "without folders"),
        ([{"mesh": "a.glb", "image": "a.png", "sed": 1}], r"line 1 \(a\).*sed.*'seed'"),
        ([{"mesh": "a.glb", "image": "a.png", "model": "x"}], "for all items"),
        ([{"mesh": "a.glb", "image": "a.png", "seed": "x"}], r"line 1 \(a\).*seed"),
        ([{"mesh": "a.glb", "image": "a.png", "seed": [1]}], "one value"),
        ([{"mesh": "a.glb", "image": "a.png", "unwrap": "perhaps"}], "true or false"),
        ([{"mesh": "a.glb", "refs": "a.png"}], "an object such as"),
        ([{"mesh": "a.glb", "image": 3}], "path: expected a text"),
        ([{"mesh": "a.glb"}], "reference image"),
        (
            [{"mesh": f"{n}.glb", "image": "a.png", "out": "same.glb"} for n in "ab"],
            "line 2.*a result of its own.*line 1",
        ),
        ([{"mesh": f"{n}.glb"} for n in "abcdefg"], "and 2 more"),
    ],
)
def test_items_that_cannot_be_meant_are_named(
    tmp_path: Path, items: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(UsageError, match=f"(?s){told}"):
        requests(write(tmp_path / "jobs.jsonl", *items))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("jobs.jsonl", "{]\n", "line 1.*JSON object"),
        ("jobs.jsonl", "\n[1]\n", "line 2.*JSON object"),
        ("jobs.jsonl", "\n", "at least one item"),
        ("jobs.csv", "mesh,image\na.glb\n", "line 2.*2 cells"),
        ("jobs.csv", "mesh\na.glb,b.png\n", "line 2.*1 cells"),
        ("jobs.txt", "", "Name the manifest first"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SeqTexError, match=told):
        read_manifest_items(path)
    with pytest.raises(InputError):
        read_manifest_items(tmp_path / "missing.csv")


# --- runs in this process ------------------------------------------------------------------------


def test_a_failing_item_stops_no_other_and_a_second_run_does_the_rest(
    seqtex: Callable[..., Any], work: Path
) -> None:
    manifest = write(
        work / "jobs.jsonl",
        {"mesh": "missing.glb", "image": FRONT},
        {"mesh": "figure.glb", "image": FRONT},
        {"mesh": "bare.ply", "image": FRONT, "seed": 0},
    )
    command = ["batch", manifest, "-o", work / "out", "--workers", "0", *SMALL]
    refused = seqtex(*command)
    assert refused.code == 2, "--seed needs a model: nothing is begun"
    assert not (work / "out").exists()

    write(
        manifest,
        {"mesh": "missing.glb", "image": FRONT},
        {"mesh": "figure.glb", "image": FRONT},
        {"mesh": "figure.glb", "image": FRONT, "name": "finer", "texture_size": 128},
    )
    first = seqtex(*command)
    assert first.code == 7
    assert "[1/3] missing: failed: " in first.err
    assert "2 done, 0 done before, 1 failed" in first.err
    assert "line 1 (missing): " in first.err
    names = ["figure_textured.glb", "finer_textured.glb"]
    assert first.out.split() == [str(work / "out" / name) for name in names]
    sizes = [
        read_manifest(work / "out" / f"{name}.seqtex.json")["settings"]["uv_size"] for name in names
    ]
    assert sizes == [64, 128]
    report = json.loads((work / "out" / "reports" / "missing.json").read_text())
    assert report["status"] == "failed"
    assert "missing.glb" in report["reason"]
    assert summary(work)["failed"] == {"missing": report["reason"]}
    assert not list(work.rglob(".*")), "scratch files are gone"

    (work / "missing.glb").write_bytes((work / "figure.glb").read_bytes())
    before = (work / "out" / names[0]).stat().st_mtime_ns
    second = seqtex(*command)
    assert second.code == 0
    assert "1 items to do, 2 of 3 done before" in second.err
    assert second.out.split() == [str(work / "out" / "missing_textured.glb")]
    assert (work / "out" / names[0]).stat().st_mtime_ns == before
    assert summary(work)["done_before"] == ["figure", "finer"]

    other = work / FRONT
    other.write_bytes((work / "views" / "2_back.png").read_bytes())
    (work / "out" / names[1]).unlink()
    third = seqtex(*command, "--min-iou", "0.3")
    assert "3 items to do" in third.err, "other files, other options, or no result"
    log = json.loads((work / "out" / "reports" / "figure.json").read_text())["log"]
    assert any("silhouette IoU" in line for line in log)


def test_machines_share_a_manifest_by_rank(seqtex: Callable[..., Any], work: Path) -> None:
    items = [{"mesh": "figure.glb", "image": FRONT, "name": n} for n in ("a", "b", "c")]
    manifest = write(work / "jobs.jsonl", *items)
    command = ["batch", manifest, "-o", work / "out", "--workers", "0", *SMALL, "--world-size", "2"]
    assert seqtex(*command, "--rank", "2").code == 2
    for rank, names in ((0, ["a", "c"]), (1, ["b"])):
        assert seqtex(*command, "--rank", str(rank)).code == 0
        assert summary(work, f"summary-{rank}-of-2.json")["done"] == names
    assert seqtex(*command, "--rank", "0").out == ""
    assert len(seqtex(*command, "--rank", "1", "--redo").out.split()) == 1


def test_a_defect_costs_its_item_only(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write(work / "jobs.jsonl", {"mesh": "figure.glb", "image": FRONT})
    (request,) = requests(manifest)
    (item,) = read_manifest_items(manifest)

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr("seqtex.cli.batch_work.texture_file", broken)
    report = do_item(BatchJob(item=item, request=request, sizes=run_sizes([request])))
    assert report.status == "failed"
    assert report.reason.startswith("ValueError: no such luck")
    assert any("Traceback" in line for line in report.log)


def test_a_process_loads_its_model_once(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[TextureRequest] = []
    seen: list[tuple[int | None, object]] = []

    def load(request: TextureRequest, *_: object) -> object:
        loads.append(request)
        return f"pipeline {len(loads)}"

    def make(request: TextureRequest, *, report: object, pipeline: object) -> None:
        seen.append((request.seed, pipeline))

    monkeypatch.setattr(batch_work, "_loaded", {})
    monkeypatch.setattr(batch_work, "load_pipeline", load)
    monkeypatch.setattr(batch_work, "texture_file", make)
    items = [
        {"mesh": "figure.glb", "image": FRONT, "name": n, "seed": i} for i, n in enumerate("ab")
    ]
    manifest = write(work / "jobs.jsonl", *items)
    made = requests(manifest, "--model", "seqtex-tiny")
    for item, request in zip(read_manifest_items(manifest), made, strict=True):
        report = do_item(BatchJob(item=item, request=request, sizes=run_sizes(made)))
        assert report.status == "done", report.reason
    assert len(loads) == 1
    assert seen == [(0, "pipeline 1"), (1, "pipeline 1")]


# --- processes -----------------------------------------------------------------------------------


def test_an_interrupt_leaves_whole_results_and_the_next_run_goes_on(
    start: Callable[..., Any], seqtex: Callable[..., Any], work: Path
) -> None:
    items = [{"mesh": "figure.glb", "image": FRONT, "name": f"item{i}"} for i in range(30)]
    manifest = write(work / "jobs.jsonl", {"mesh": "missing.glb", "image": FRONT}, *items)
    command = ["batch", manifest, "-o", work / "out", *SMALL]
    process = start(command)
    first = process.stdout.readline().strip()
    assert first.endswith("item0_textured.glb"), "the failing item before it stopped nothing"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    record = summary(work)
    assert record["interrupted"] is True
    assert record["not_tried"] > 0
    assert "item0" in record["done"]
    assert "missing" in record["failed"]
    written = {path.name for path in (work / "out").glob("*.glb")}
    manifests = {path.name for path in (work / "out").glob("*.glb.seqtex.json")}
    assert manifests == {f"{name}.seqtex.json" for name in written}
    for name in record["done"]:
        read_manifest(work / "out" / f"{name}_textured.glb.seqtex.json")

    write(manifest, items[0], items[-1])
    assert seqtex(*command, "--workers", "0").code == 0
    record = summary(work)
    assert (record["done_before"], record["done"]) == (["item0"], ["item29"])


def test_the_report_of_an_item_whose_process_ended(work: Path) -> None:
    manifest = write(work / "jobs.jsonl", {"mesh": "figure.glb", "image": FRONT})
    run = BatchRun(out=work / "out")
    items, made = read_manifest_items(manifest), requests(manifest)
    run.prepare(items, made, shared=[], workers=1, redo=False)
    job = BatchJob(item=items[0], request=made[0], sizes=run_sizes(made))
    run._note(JobEnd(job=job, result=None, failure="the process ended: SIGKILL", seconds=2.0), "")
    run.summarise()
    assert summary(work)["failed"] == {"figure": "the process ended: SIGKILL"}
    report = json.loads((work / "out" / "reports" / "figure.json").read_text())
    assert (report["status"], report["seconds"]) == ("failed", 2.0)
