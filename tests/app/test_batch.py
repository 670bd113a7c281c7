"""``seqtex batch``: failing items, ranks, workers, interrupts."""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_runs import FRONT, SMALL, job_of, requests, summary, write

from seqtex.cli import batch_work
from seqtex.cli.batch_manifest import read_manifest_items
from seqtex.cli.batch_run import BatchRun
from seqtex.cli.batch_work import do_item
from seqtex.cli.texture_request import TextureRequest
from seqtex.data.worker_processes import JobEnd, _serve
from seqtex.manifest import read_manifest


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
    """All of the ranks do all items, none twice; ranks without items have nothing to do."""
    items = [{"mesh": "figure.glb", "image": FRONT, "name": n} for n in ("a", "b", "c")]
    manifest = write(work / "jobs.jsonl", *items)
    command = ["batch", manifest, "-o", work / "out", "--workers", "0", *SMALL, "--world-size", "2"]
    assert seqtex(*command, "--rank", "2").code == 2
    for rank, names in ((0, ["a", "c"]), (1, ["b"])):
        assert seqtex(*command, "--rank", str(rank)).code == 0
        assert summary(work, f"summary-{rank}-of-2.json")["done"] == names
    assert seqtex(*command, "--rank", "0").out == ""
    assert len(seqtex(*command, "--rank", "1", "--redo").out.split()) == 1
    alone = seqtex(*command[:-2])
    assert "0 items to do, 3 of 3 done before" in alone.err
    idle = seqtex(*command[:-1], "9", "--rank", "8")
    assert (idle.code, idle.out) == (0, "")
    assert summary(work, "summary-8-of-9.json")["items"] == 0


def test_items_of_two_machines_with_one_result_are_refused_by_both(
    seqtex: Callable[..., Any], work: Path
) -> None:
    items = [{"mesh": "figure.glb", "image": FRONT, "name": n, "out": "x.glb"} for n in "ab"]
    command = ["batch", write(work / "jobs.jsonl", *items), "-o", work / "out", *SMALL]
    for rank in "01":
        refused = seqtex(*command, "--workers", "0", "--world-size", "2", "--rank", rank)
        assert refused.code == 2
        assert "a result of its own" in refused.err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_an_item_has_some_time(seqtex: Callable[..., Any], work: Path, minutes: str) -> None:
    manifest = write(work / "jobs.jsonl", {"mesh": "figure.glb", "image": FRONT})
    refused = seqtex("batch", manifest, "-o", work / "out", *SMALL, f"--timeout={minutes}")
    assert refused.code == 2
    assert "--timeout" in refused.err
    assert "above 0" in refused.err
    here = seqtex("batch", manifest, "-o", work / "out", *SMALL, "--workers=0", "--timeout=1")
    assert here.code == 2, "nothing could end the item: not ignored"
    assert not (work / "out").exists()


@pytest.mark.parametrize("extra", ["--texture-sise=64", "other.jsonl"])
def test_what_texture_does_not_take_is_said_once(
    seqtex: Callable[..., Any], work: Path, extra: str
) -> None:
    items = [{"mesh": "figure.glb", "image": FRONT, "name": n} for n in "abc"]
    manifest = write(work / "jobs.jsonl", *items)
    refused = seqtex("batch", manifest, "-o", work / "out", extra)
    assert refused.code == 2
    assert refused.err.count(extra.partition("=")[0]) == 1, refused.err


def test_many_items_begin_soon_and_are_told_of_briefly(
    seqtex: Callable[..., Any], work: Path
) -> None:
    """Command lines of items are read without building the command anew, which takes 25 ms."""
    items = [{"mesh": f"no{n}.glb", "image": FRONT, "name": f"item{n}"} for n in range(500)]
    manifest = write(work / "jobs.jsonl", *items)
    start = time.process_time()
    done = seqtex("batch", manifest, "-o", work / "out", *SMALL, "--workers", "0")
    seconds = time.process_time() - start
    assert done.code == 7
    assert seconds < 6, "about 1.5 s; 13 s if every item builds the command"
    told = done.err[done.err.index("0 done, ") :]
    assert f"and 480 more: all are in {work / 'out' / 'summary.json'}" in told
    assert len(told.splitlines()) == 22
    record = summary(work)
    assert (record["items"], len(record["failed"])) == (500, 500)


def test_a_defect_costs_its_item_only(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write(work / "jobs.jsonl", {"mesh": "figure.glb", "image": FRONT})
    (request,) = requests(manifest)
    (item,) = read_manifest_items(manifest)

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr("seqtex.cli.batch_work.texture_file", broken)
    done = do_item(job_of(manifest, item, request))
    assert done.status == "failed"
    assert done.reason.startswith("ValueError: no such luck")
    assert any("Traceback" in line for line in done.log)


def test_a_process_loads_its_model_once(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[TextureRequest] = []
    seen: list[tuple[int | None, object]] = []

    def load(request: TextureRequest, *_: object) -> object:
        loads.append(request)
        return f"model {len(loads)}"

    def make(request: TextureRequest, *, report: object, model: object) -> object:
        seen.append((request.seed, model))
        return SimpleNamespace(files=(), beside=())

    monkeypatch.setattr(batch_work, "_loaded", {})
    monkeypatch.setattr(batch_work, "requested_model", load)
    monkeypatch.setattr(batch_work, "texture_file", make)
    items = [
        {"mesh": "figure.glb", "image": FRONT, "name": n, "seed": i} for i, n in enumerate("ab")
    ]
    manifest = write(work / "jobs.jsonl", *items)
    made = requests(manifest, "--model", "seqtex-tiny")
    for item, request in zip(read_manifest_items(manifest), made, strict=True):
        report = do_item(job_of(manifest, item, request))
        assert report.status == "done", report.reason
    assert len(loads) == 1
    assert seen == [(0, "model 1"), (1, "model 1")]


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
    run.prepare(items, made, workers=1, redo=False)
    job = job_of(manifest, items[0], made[0])
    run._note(JobEnd(job=job, result=None, failure="the process ended: SIGKILL", seconds=2.0), "")
    run.summarise()
    assert summary(work)["failed"] == {"figure": "the process ended: SIGKILL"}
    report = json.loads((work / "out" / "reports" / "figure.json").read_text())
    assert (report["status"], report["seconds"]) == ("failed", 2.0)


def test_a_killed_worker_costs_its_item_and_the_next_run_does_it(
    seqtex: Callable[..., Any], work: Path
) -> None:
    """The third of four is killed while it works, seen by the report of the one before it."""
    items = [{"mesh": "figure.glb", "image": FRONT, "name": n} for n in "abcd"]
    items[2]["texture_size"] = 512
    manifest = write(work / "jobs.jsonl", *items)
    command = ["batch", manifest, "-o", work / "out", *SMALL]

    def kill() -> None:
        before = work / "out" / "reports" / "b.json"
        while not before.exists():
            time.sleep(0.005)
        (worker,) = multiprocessing.active_children()
        worker.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    first = seqtex(*command)
    killer.join(timeout=1)
    assert first.code == 7, first.err
    record = summary(work)
    assert (record["done"], [*record["failed"]]) == (["a", "b", "d"], ["c"])
    assert "SIGKILL" in record["failed"]["c"]
    assert not (work / "out" / "c_textured.glb").exists()

    assert seqtex(*command, "--workers", "0").code == 0
    assert (summary(work)["done"], summary(work)["done_before"]) == (["c"], ["a", "b", "d"])


def test_an_item_counts_if_the_process_that_handed_it_out_is_gone(
    seqtex: Callable[..., Any], work: Path
) -> None:
    """Killed with SIGKILL, that process can tell nobody: its worker writes the report."""
    manifest = write(work / "jobs.jsonl", {"mesh": "figure.glb", "image": FRONT})
    (item,), (request,) = read_manifest_items(manifest), requests(manifest, *SMALL)
    assert do_item(job_of(manifest, item, request)).status == "done"
    again = seqtex("batch", manifest, "-o", work / "out", "--workers", "0", *SMALL)
    assert "0 items to do, 1 of 1 done before" in again.err


def test_a_worker_ends_quietly_when_nobody_is_left_to_be_told() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.send(3)

    def work(job: int) -> int:
        ours.close()
        return job

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        _serve(theirs, work)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
