"""Checkpoints: folders of safetensors and JSON that are there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqtex_core.errors import InputError, UsageError
from seqtex_core.weight_files import write_tensors

TENSORS = "state.safetensors"
RECORD = "state.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{9})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk.

    Args:
        path: its folder.
        step: optimizer steps done.
    """

    path: Path
    step: int


class CheckpointFolder:
    """Writes, lists and removes the checkpoints of one run.

    A checkpoint is written under a temporary name, flushed to the disk, and renamed; whatever
    interrupts that, what carries the final name is complete.

    Args:
        folder: made at the first save.
        keep: newest checkpoints that stay.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def list(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append(Checkpoint(path=path, step=int(match.group(1))))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint."""
        found = self.list()
        return found[-1] if found else None

    def save(self, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
        """Write a checkpoint, then remove the oldest ones and any unfinished ones.

        Args:
            step: optimizer steps done.
            tensors: the state, by name; no two share memory.
            record: JSON-able rest of the state.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        target = self.folder / f"step-{step:09d}"
        scratch = self.folder / f".unfinished-{step:09d}"
        scratch.mkdir()
        write_tensors(scratch / TENSORS, tensors)
        text = json.dumps({"format": FORMAT, "step": step, **record}, indent=1, sort_keys=True)
        (scratch / RECORD).write_text(text + "\n", encoding="utf-8")
        for name in (TENSORS, RECORD):
            _flush(scratch / name)
        _flush(scratch)
        if target.exists():
            shutil.rmtree(target)
        os.rename(scratch, target)
        _flush(self.folder)
        self.remove_oldest()
        return target

    def remove_oldest(self) -> None:
        """Remove all but the newest; each one loses its name before it loses its files."""
        for checkpoint in self.list()[: -self.keep]:
            doomed = self.folder / f".unfinished-old-{checkpoint.step:09d}"
            os.rename(checkpoint.path, doomed)
            shutil.rmtree(doomed)

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob(".unfinished-*"):
            shutil.rmtree(path)


def read_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
        InputError: damaged.
        UsageError: written by another version.
    """
    path = checkpoint.path / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            str(path),
            expected="a checkpoint's record",
            got=str(error),
            remedy=f"Remove {checkpoint.path} to resume from the one before it.",
        ) from error
    if record.get("format") != FORMAT:
        raise UsageError(str(path), expected=f"format {FORMAT}", got=repr(record.get("format")))
    return record


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
