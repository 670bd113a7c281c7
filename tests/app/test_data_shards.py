from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from seqtex.cli import run
from seqtex.data.production import Production, produce
from seqtex.data.record import GeometryRecord, RecordSizes
from seqtex.data.sample import ObjectSample
from seqtex.data.shards import ShardWriter, image_of_png, png_bytes
from seqtex.data.stream import ShardStream
from seqtex.data.synth import SynthSettings, make_object
from seqtex_core.errors import InputError, UsageError

SIZES = RecordSizes(view_size=32, uv_size=64)
SETTINGS = SynthSettings(seed=3, families=("lathe", "mug"), sizes=SIZES)


def _image(value):
    return torch.full((3, 4, 4), value / 255)


def _write(folder, shards, each):
    """Small shards whose samples are named by number."""
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        with ShardWriter(folder / f"shard-{shard:05d}.tar") as writer:
            for k in range(shard * each, (shard + 1) * each):
                meta = json.dumps({"number": k}).encode()
                writer.add(f"{k:04d}", {"uv.png": png_bytes(_image(k)), "meta.json": meta})
    return folder


def _numbers(stream):
    return [sample.meta["number"] for sample in stream]


def test_synthetic_shards_round_trip(tmp_path):
    produce(Production(folder=tmp_path, count=2, per_file=2, settings=SETTINGS, format="shards"))
    samples = list(ShardStream(tmp_path, shuffle_buffer=0))
    assert [sample.key for sample in samples] == ["00000000", "00000001"]
    sample = samples[1]
    made = make_object(SETTINGS, 1)
    record = GeometryRecord.from_tensors(sample.tensors, source=sample.key)
    for name, tensor in made.record.tensors().items():
        assert torch.equal(getattr(record, name), tensor), name
    sizes = RecordSizes(**sample.meta["sizes"])
    maps = ObjectSample(record, sizes).maps()
    assert set(sample.images) == {*(f"{n}{k}" for n in ("view", "lit") for k in range(4)), "uv"}
    assert sample.images["uv"].shape == (3, 64, 64)
    outside = maps.uv_mask == 0
    assert (sample.images["uv"] * outside).max() == 0
    assert sample.meta["family"] in SETTINGS.families
    with pytest.raises(InputError, match="frame"):
        GeometryRecord.from_tensors({}, source="x")


def test_members_follow_the_convention(tmp_path):
    produce(Production(folder=tmp_path, count=1, settings=SETTINGS, format="shards"))
    with tarfile.open(tmp_path / "shard-00000.tar") as tar:
        names = tar.getnames()
    assert {name.partition(".")[0] for name in names} == {"00000000"}
    assert {name.rpartition(".")[2] for name in names} == {"png", "safetensors", "json"}


def test_shard_bytes_depend_on_the_samples_only(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path / name, 1, 3)
    assert (tmp_path / "a/shard-00000.tar").read_bytes() == (
        tmp_path / "b/shard-00000.tar"
    ).read_bytes()


def test_failed_shard_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "shard.tar") as writer:  # noqa: PT012
        writer.add("0", {"meta.json": b"{}"})
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_png_keeps_8_bit_colours():
    image = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0)) / 255
    assert torch.equal(image_of_png(png_bytes(image)), image)


@pytest.mark.parametrize(("world", "buffer"), [(1, 0), (1, 5), (3, 4), (7, 100)])
def test_epoch_gives_every_sample_once(tmp_path, world, buffer):
    folder = _write(tmp_path / "set", 5, 4)
    epochs = []
    for epoch in (0, 1, 0):
        seen = []
        for rank in range(world):
            stream = ShardStream(folder, shuffle_buffer=buffer, rank=rank, world_size=world)
            stream.set_epoch(epoch)
            seen.append(_numbers(stream))
        assert sorted(number for part in seen for number in part) == list(range(20))
        epochs.append(seen)
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("shards", [1, 2])
def test_loader_workers_share_an_epoch(tmp_path, shards):
    folder = _write(tmp_path / "set", shards, 10 // shards)
    loader = DataLoader(ShardStream(folder), batch_size=None, num_workers=2)
    assert sorted(_numbers(loader)) == list(range(10))


def test_stream_holds_no_more_than_its_buffer(tmp_path):
    folder = _write(tmp_path / "set", 4, 25)
    stream = ShardStream(folder, shuffle_buffer=10)
    made = []
    decode = stream._samples

    def counted(*arguments):
        for sample in decode(*arguments):
            made.append(sample.key)
            yield sample

    stream._samples = counted
    for given, _ in enumerate(stream, start=1):
        assert len(made) - given <= 9


def _truncated(content):
    return content[: len(content) // 2 + 100]


def _cut_between_members(content):
    return content[: 4 * 1024]  # two members of a header and a block each


def _bad_header(content):
    start = 8 * 512  # header of the fifth member
    return content[:start] + b"x" * 512 + content[start + 512 :]


def _empty(content):
    return b""


@pytest.mark.parametrize("damage", [_truncated, _cut_between_members, _bad_header, _empty])
def test_damaged_shard_is_reported_and_the_others_are_read(tmp_path, damage, caplog):
    folder = _write(tmp_path / "set", 3, 4)
    path = folder / "shard-00001.tar"
    path.write_bytes(damage(path.read_bytes()))
    reported = []
    stream = ShardStream(folder, shuffle_buffer=0, on_damage=reported.append)
    seen = sorted(_numbers(stream))
    assert {0, 1, 2, 3, 8, 9, 10, 11} <= set(seen)
    assert len(seen) < 12
    assert len(seen) == len(set(seen))
    assert [d.shard for d in reported] == [str(path)]
    assert "shard-00001" in caplog.text


def test_damaged_sample_costs_only_itself(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    picture = bytearray(png_bytes(torch.rand(3, 16, 16)))
    picture[60] ^= 0xFF
    with ShardWriter(folder / "shard.tar") as writer:
        writer.add("a", {"uv.png": png_bytes(_image(1)), "meta.json": b'{"number": 1}'})
        writer.add("b", {"uv.png": bytes(picture), "meta.json": b'{"number": 2}'})
        writer.add("c", {"meta.json": b"{"})
        writer.add("d", {"geometry.safetensors": b"no such thing"})
        writer.add("e", {"meta.json": b'{"number": 5}'})
    reported = []
    stream = ShardStream(folder, shuffle_buffer=0, on_damage=reported.append)
    assert _numbers(stream) == [1, 5]
    assert [d.key for d in reported] == ["b", "c", "d"]
    assert [d.reason.partition(":")[0] for d in reported] == [
        "b.uv.png",
        "c.meta.json",
        "d.geometry.safetensors",
    ]
    assert _numbers(stream) == [1, 5]
    assert len(reported) == 6
    assert len(caplog.records) == 3  # once for each


def test_foreign_tar_with_folders_is_read(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in (("d/1.uv.png", png_bytes(_image(9))), ("d/1.json", b'{"a": 1}')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (sample,) = ShardStream(tmp_path / "x.tar")
    assert sample.key == "1"
    assert sample.meta == {"a": 1}
    assert sample.images["uv"].shape == (3, 4, 4)


def test_bad_streams_are_refused(tmp_path):
    with pytest.raises(InputError, match="seqtex data synth"):
        ShardStream(tmp_path)
    with pytest.raises(UsageError, match="rank"):
        ShardStream(_write(tmp_path / "set", 1, 1), rank=1, world_size=1)


def test_command_makes_a_set_and_refuses_nonsense(tmp_path, capsys):
    base = ["data", "synth", str(tmp_path / "set"), "--count", "1", "--view-size", "32"]
    assert run([*base, "--uv-size", "64"]) == 0
    assert "1 of 1 files, 1 objects in all" in capsys.readouterr().out
    assert run([*base, "--uv-size", "64"]) == 0
    assert run([*base, "--uv-size", "64", "--seed", "9"]) == 2
    assert run([*base, "--held-out", "lath"]) == 2
    assert run([*base, "--view-size", "7"]) == 2
    assert "lathe" in capsys.readouterr().err


def test_a_long_stream_holds_no_more_than_a_short_one(tmp_path):
    """Samples alive at once, and bytes of Python objects at the peak, for 4 and for 100 shards."""

    def held(shards):
        stream = ShardStream(shards, shuffle_buffer=16)
        alive, most = weakref.WeakSet(), 0
        tracemalloc.start()
        for sample in stream:
            alive.add(sample)
            most = max(most, len(alive))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, peak

    _write(tmp_path / "set", 4, 20)
    short = sorted((tmp_path / "set").iterdir())
    held(short)  # imports and caches
    few, low = held(short)
    many, high = held(short * 25)
    assert few == many <= 3  # what was given is let go; the buffer's samples are counted once given
    assert high < low + 100_000  # 1920 more samples would be megabytes; paths and order are not
