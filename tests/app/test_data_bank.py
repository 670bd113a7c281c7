from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from seqtex.data.bank import GeometryBank
from seqtex.data.production import Production, make_file, produce
from seqtex.data.record import RecordSizes, decoded_footprint, encoded_footprint, packed, unpacked
from seqtex.data.sample import ObjectSample
from seqtex.data.synth import SynthSettings, make_object
from seqtex.training.bank_source import BankSource
from seqtex.training.batch import SourceContext
from seqtex_core.errors import InputError, UsageError

SIZES = RecordSizes(view_size=32, uv_size=64)
SETTINGS = SynthSettings(seed=3, families=("lathe", "mug", "table"), sizes=SIZES)
CONTEXT = SourceContext(seed=1, view_size=32, uv_size=64, supersample=2)


@pytest.fixture(scope="module")
def production(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    made = Production(folder=folder, count=5, per_file=2, settings=SETTINGS)
    produce(made)
    return made


def _source(production, **options):
    return BankSource({"path": str(production.folder), **options}, CONTEXT)


def test_bank_gives_back_the_records(production):
    bank = GeometryBank(production.folder)
    assert len(bank) == 5
    assert bank.sizes == SIZES
    for index in range(5):
        made = make_object(SETTINGS, index)
        entry = bank.entries[index]
        assert (entry.index, entry.family) == (index, made.mesh.family)
        kept = bank.record(index).tensors()
        for name, tensor in made.record.tensors().items():
            assert torch.equal(kept[name], tensor), name
    with pytest.raises(UsageError, match="0 to 4"):
        bank.record(5)


def test_places_by_family(production):
    bank = GeometryBank(production.folder)
    found = bank.places(["mug", "table"]) + bank.places(["lathe"])
    assert sorted(found) == list(range(5))


def test_production_continues_and_makes_the_same(production, tmp_path):
    half = replace(production, folder=tmp_path)
    tmp_path.mkdir(exist_ok=True)
    make_file(half, 1)
    first = (tmp_path / half.file_name(1)).stat()
    reports = []
    produce(half, on_progress=lambda stage, done, total: reports.append((done, total)))
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / half.file_name(1)).stat().st_mtime_ns == first.st_mtime_ns
    for number in range(3):
        name = half.file_name(number)
        assert (tmp_path / name).read_bytes() == (production.folder / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [half.file_name(n) for n in range(3)] + ["dataset.json"]
    )


def test_another_set_in_the_folder_is_refused(production):
    with pytest.raises(UsageError, match="got a set with more objects"):
        produce(replace(production, count=4))
    with pytest.raises(UsageError, match=r"differs in settings\.seed"):
        produce(replace(production, settings=replace(SETTINGS, seed=4)))
    assert len(GeometryBank(production.folder)) == 5


@pytest.mark.parametrize("kind", ["bank", "shards"])
def test_a_set_is_made_longer(tmp_path, kind):
    """It is then the set that the larger count makes; whole files stay as they are."""
    short = Production(
        folder=tmp_path / "grown", count=3, per_file=2, settings=SETTINGS, format=kind
    )
    produce(short)
    kept = (short.folder / short.file_name(0)).stat().st_mtime_ns
    long = replace(short, count=5)
    produce(long)
    fresh = replace(long, folder=tmp_path / "fresh")
    produce(fresh)
    names = {path.name for path in fresh.folder.iterdir()}
    assert {path.name for path in long.folder.iterdir()} == names
    for name in names:
        assert (long.folder / name).read_bytes() == (fresh.folder / name).read_bytes(), name
    assert (long.folder / long.file_name(0)).stat().st_mtime_ns == kept
    (long.folder / long.file_name(1)).write_bytes(b"cut off")
    produce(long)
    name = long.file_name(1)
    assert (long.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


def test_ranks_share_the_files(production, tmp_path):
    made = []
    for rank in range(2):
        part = replace(production, folder=tmp_path, rank=rank, world_size=2)
        made += [path.name for path in produce(part)]
    assert sorted(made) == [production.file_name(n) for n in range(3)]
    assert len(GeometryBank(tmp_path)) == 5
    with pytest.raises(UsageError, match="rank"):
        Production(folder=tmp_path, count=1, rank=2, world_size=2)


def test_files_of_a_set_can_be_read_by_others(production):
    """As any file of this user is, by the umask; safetensors alone makes them private."""
    other = production.folder / "dataset.json"
    for number in range(3):
        made = production.folder / production.file_name(number)
        assert made.stat().st_mode == other.stat().st_mode


@pytest.mark.slow
def test_processes_make_the_same(production, tmp_path):
    produce(replace(production, folder=tmp_path), workers=2)
    for number in range(3):
        name = production.file_name(number)
        assert (tmp_path / name).read_bytes() == (production.folder / name).read_bytes()


def test_missing_and_damaged_banks_are_named(production, tmp_path):
    with pytest.raises(InputError, match="seqtex data synth"):
        GeometryBank(tmp_path)
    for path in production.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / production.file_name(1)
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(InputError, match="shapes-00001"):
        GeometryBank(tmp_path)
    index = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(InputError, match="format 1"):
        GeometryBank(tmp_path)


def test_source_is_a_function_of_the_sample_number(production):
    source = _source(production)
    both = source.batch([7, 3], "img2tex")
    alone = _source(production).batch([3], "img2tex")
    for name, group in both.groups.items():
        for field in ("images", "position", "normal", "mask"):
            assert torch.equal(getattr(group, field)[1:], getattr(alone.groups[name], field))
    again = source.batch([8], "img2tex")
    assert not torch.equal(again.groups["texture"].images, alone.groups["texture"].images)
    assert both.groups["views"].images.shape == (2, 4, 3, 32, 32)
    assert both.groups["texture"].images.shape == (2, 1, 3, 64, 64)


def test_epochs_show_every_object_once(production):
    source = _source(production)
    orders = [[source.place(5 * epoch + k) for k in range(5)] for epoch in range(8)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert [source.place(k) for k in range(5)] == orders[0]  # going back gives the same


def test_geo2mv_is_lit_and_the_texture_is_not(production):
    source = _source(production)
    plain, lit = (source.batch([0, 1], task) for task in ("img2tex", "geo2mv"))
    assert torch.equal(plain.groups["texture"].images, lit.groups["texture"].images)
    assert not torch.allclose(plain.groups["views"].images, lit.groups["views"].images)
    assert torch.equal(plain.groups["views"].mask, lit.groups["views"].mask)


def test_preview_uses_held_out_kinds(production):
    source = _source(production)
    first, second = source.preview(3), source.preview(3)
    assert torch.equal(first.groups["texture"].images, second.groups["texture"].images)
    assert len(source.preview(99).groups["texture"].images) == len(source.bank)  # none twice
    with pytest.raises(UsageError, match="options"):
        _source(production, wrong=1)
    with pytest.raises(UsageError, match="32, 64, 2"):
        BankSource(
            {"path": str(production.folder)},
            SourceContext(seed=1, view_size=64, uv_size=64, supersample=2),
        )


def test_sample_works_from_the_mapped_file(production):
    bank = GeometryBank(production.folder)
    sample = ObjectSample(bank.record(4), bank.sizes)
    mask = sample.maps().view_mask
    cover = bank.record(4).view_index().numel()
    assert mask.sum() * SIZES.supersample**2 == pytest.approx(cover)


def test_bits_and_footprints_survive():
    cover = torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(unpacked(packed(cover)), torch.nonzero(cover.reshape(-1))[:, 0])
    sizes = torch.from_numpy(np.geomspace(0.001, 4.0, 50)).float()
    ratio = decoded_footprint(encoded_footprint(sizes)) / sizes
    assert (ratio.log2().abs() <= 0.5 / 16 + 1e-3).all()
