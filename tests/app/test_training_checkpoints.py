"""Checkpoints appear whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from seqtex.training import checkpoints
from seqtex.training.checkpoints import RECORD, TENSORS, CheckpointFolder, read_record
from seqtex.training.latent_cache import LatentCache, codec_identity
from seqtex.training.logs import MetricsLog
from seqtex_core.errors import InputError


class KilledError(BaseException):
    """Stands for the end of the process."""


def save(folder: CheckpointFolder, step: int) -> None:
    folder.save(step, {"x": torch.full((3,), float(step))}, {"note": "kept"})


def test_newest_are_kept_and_read_back(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    assert folder.latest() is None
    for step in (10, 20, 30):
        save(folder, step)
    assert [c.step for c in folder.list()] == [20, 30]
    latest = folder.latest()
    assert latest is not None
    assert read_record(latest)["note"] == "kept"
    assert sorted(p.name for p in latest.path.iterdir()) == [RECORD, TENSORS]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "step-000000020",
        "step-000000030",
    ]


@pytest.mark.parametrize("call", range(8))
def test_an_end_at_any_system_call_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    save(folder, 10)
    calls = 0

    def dying(original: object) -> object:
        def wrapped(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise KilledError
            return original(*args, **kwargs)  # type: ignore[operator]

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", dying(checkpoints.write_tensors))
        patch.setattr(os, "rename", dying(os.rename))
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(checkpoints.shutil, "rmtree", dying(checkpoints.shutil.rmtree))
        with pytest.raises(KilledError):
            save(folder, 20)
    latest = folder.latest()
    assert latest is not None
    record = read_record(latest)
    assert record["step"] == latest.step
    assert (latest.path / TENSORS).is_file()
    save(folder, 30)  # and the next run clears up
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000030"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    save(folder, 10)
    latest = folder.latest()
    assert latest is not None
    (latest.path / RECORD).write_text("{")
    with pytest.raises(InputError, match="step-000000010"):
        read_record(latest)


def test_metrics_of_lost_steps_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, from_step=0)
    for step in range(1, 6):
        log.write({"step": step})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 6, "lo')  # the kill came here
    log = MetricsLog(tmp_path, from_step=3)
    log.write({"step": 4, "again": True})
    log.close()
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


def test_latents_are_encoded_once(tmp_path: Path) -> None:
    seen: list[int] = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images.transpose(1, 2) * 2

    cache = LatentCache(tmp_path, "double")
    images = torch.rand(3, 2, 3, 4, 4)
    first = cache.get(images[:2], ["a", "b"], encode)
    again = cache.get(images, ["a", "b", "c"], encode)
    assert seen == [2, 1]
    assert torch.equal(first, again[:2])
    assert torch.equal(again, images.transpose(1, 2) * 2)
    other_codec = LatentCache(tmp_path, "triple")
    other_codec.get(images, ["a", "b", "c"], encode)
    assert seen == [2, 1, 3]


class Scaling(nn.Module):
    """A codec of which all that matters are settings and weights."""

    def __init__(self, scale: float, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.size = size

    def to_config(self) -> dict[str, int]:
        return {"size": self.size}


def test_codecs_of_other_settings_or_other_weights_have_other_identities() -> None:
    names = [codec_identity(Scaling(*each)) for each in ((1.0, 4), (1.0, 4), (1.0, 8), (2.0, 4))]  # type: ignore[arg-type]
    assert names[0] == names[1]
    assert len(set(names)) == 3
