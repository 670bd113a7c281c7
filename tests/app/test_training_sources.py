"""Shards as a training source, and what a run says where packages are missing."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import make_run, tiny_config

from seqtex.data.record import RecordSizes
from seqtex.data.shards import write_synthetic_shard
from seqtex.data.synth import SynthSettings
from seqtex.training import trainer
from seqtex.training.batch import SOURCES, SourceContext
from seqtex.training.logs import open_tensorboard
from seqtex.training.shard_places import ShardPlaces
from seqtex.training.shard_source import ShardSource
from seqtex_core.errors import InputError, MissingDependencyError, UsageError
from seqtex_core.tasks import TEXTURE, VIEWS

SIZES = RecordSizes(view_size=16, uv_size=32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of two objects, and a folder with one more."""
    folder = tmp_path_factory.mktemp("shards")
    settings = SynthSettings(sizes=SIZES)
    for name, indices in (("full/a.tar", [0, 1]), ("full/b.tar", [2, 3]), ("more/c.tar", [4])):
        (folder / name).parent.mkdir(exist_ok=True)
        write_synthetic_shard(folder / name, settings, indices)
    return folder


def source(folder: Path, **options: str) -> ShardSource:
    context = SourceContext(seed=0, view_size=16, uv_size=32, folder=folder)
    made = SOURCES.get("shards")({"path": "full", **options}, context)
    assert isinstance(made, ShardSource)
    return made


def keys(made: ShardSource, numbers: range, task: str) -> list[str]:
    """Keys in the shards; before them stands the name of the set."""
    return [key.rpartition("-")[2] for key in made.batch(numbers, task).geometry_keys or ()]


def test_an_epoch_shows_every_sample_once_and_again_the_same(shards: Path) -> None:
    made = source(shards)
    first = keys(made, range(4), "img2tex")
    assert sorted(first) == [f"{k:08d}" for k in range(4)]
    orders = {tuple(keys(made, range(4 * e, 4 * e + 4), "img2tex")) for e in range(6)}
    assert all(sorted(order) == sorted(first) for order in orders)
    assert len(orders) > 1
    assert keys(source(shards), range(4), "img2tex") == first
    one = [keys(made, range(k, k + 1), "img2tex")[0] for k in (2, 0, 3, 1)]
    assert one == [first[k] for k in (2, 0, 3, 1)]


def test_samples_without_textures_join_the_task_that_needs_none(shards: Path) -> None:
    made = source(shards, mv_only_path="more")
    assert "00000004" in keys(made, range(5), "geo2mv")
    assert "00000004" not in keys(made, range(40), "img2tex")
    lit = made.batch(range(2), "geo2mv")
    assert set(lit.groups) == {VIEWS}
    full = made.batch(range(2), "img2tex")
    assert full.groups[VIEWS].images.shape == (2, 4, 3, 16, 16)
    assert full.groups[TEXTURE].images.shape == (2, 1, 3, 32, 32)
    assert full.visible is not None
    assert full.visible.shape == (2, 4, 32, 32)


def test_maps_and_pictures_belong_together(shards: Path) -> None:
    batch = source(shards).batch(range(4), "img2tex")
    for group in batch.groups.values():
        outside = group.mask == 0
        assert bool(outside.any())
        assert float((group.images * outside).abs().max()) == 0.0
        assert float((group.position * outside).abs().max()) == 0.0
        assert float(group.position.abs().max()) <= 1.0


def test_damage_is_reported_and_skipped(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    whole = (shards / "full" / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(whole)
    (folder / "b.tar").write_bytes((shards / "full" / "b.tar").read_bytes()[:-20000])
    with caplog.at_level(logging.WARNING):
        places = ShardPlaces.scan(folder)
    assert len(places) == 3
    assert "b.tar" in caplog.text
    start = int(places.start[0])
    broken = bytearray(whole)
    broken[start + 600 : start + 700] = b"\xff" * 100  # inside the first picture
    (folder / "a.tar").write_bytes(bytes(broken))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        made = source(tmp_path)
        found = keys(made, range(12), "img2tex")
        shown = made.preview(6)
    assert "00000000" not in found
    assert len(found) == 12
    assert len(caplog.records) == 2  # the shard's end, and the sample: once, whatever is asked for
    said = caplog.records[1].getMessage()
    assert str(folder / "a.tar") in said
    assert "00000000.view0.png: expected a PNG image" in said
    # there are two whole samples: they are shown, and none of them twice
    assert [key.rpartition("-")[2] for key in shown.geometry_keys or ()] == ["00000001", "00000002"]


def test_a_set_without_a_whole_sample_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    whole = bytearray((shards / "more" / "c.tar").read_bytes())
    whole[600:700] = b"\xff" * 100
    (tmp_path / "full" / "c.tar").write_bytes(bytes(whole))
    with pytest.raises(InputError, match="can be read"):
        source(tmp_path).preview(2)
    with pytest.raises(InputError, match="can be read"):
        source(tmp_path).batch([0], "img2tex")


def test_wrong_folders_options_and_sizes_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shards"):
        source(tmp_path)
    with pytest.raises(UsageError, match="paths"):
        source(shards, paths="x")
    context = SourceContext(seed=0, view_size=32, uv_size=32, folder=shards)
    with pytest.raises(UsageError, match="views of 32"):
        ShardSource({"path": "full"}, context).batch([0], "img2tex")
    for name in ("bank", "shards"):
        with pytest.raises(UsageError, match="path"):
            SOURCES.get(name)({}, context)


def test_tensorboard_is_used_if_it_is_there_and_missed_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert open_tensorboard("auto", tmp_path, said.append) is None
    assert any("not installed" in line for line in said)
    with pytest.raises(MissingDependencyError, match="tensorboard"):
        open_tensorboard("on", tmp_path, said.append)

    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            assert (folder, purge_step) == (str(tmp_path / "tensorboard"), 1)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    log = open_tensorboard("auto", tmp_path, said.append)
    assert log is not None
    log.write(7, {"img2tex/total": 0.5})
    log.close()
    assert written == [("img2tex/total", 0.5, 7), ("closed", 0.0, 0)]


def test_tensorboard_shows_what_the_run_wrote_and_nothing_of_lost_steps(tmp_path: Path) -> None:
    """With the real package: a run, then a resumed one, read back as TensorBoard reads them."""
    pytest.importorskip("tensorboard", reason="TensorBoard logs need tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    base = tiny_config(4)
    config = replace(base, output=replace(base.output, tensorboard="on", log_every=2))
    trainer.train(make_run(config, tmp_path), resume=False, say=lambda text: None)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "event" not in record]
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000004")
    time.sleep(1.1)  # event files are ordered by their names, which hold whole seconds
    trainer.train(make_run(config, tmp_path), resume=True, say=lambda text: None)
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 2
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in board.Tags()["scalars"]}
    counts = {tag: len(board.Scalars(tag)) for tag in shown}
    for record in steps:  # as written before the stop: step 4 is done again to the bit
        for name in set(record) - {"step", "task"}:
            tag = f"{record['task']}/{name}"
            # TensorBoard keeps fp32.
            assert shown[tag][record["step"]] == pytest.approx(record[name], rel=1e-6)
            assert counts[tag] == len(shown[tag])
    assert {"speed/steps_per_second", "speed/memory_gb"} <= set(shown)
