"""A bank of objects' geometry on disk: safetensors files that are mapped into memory.

Shapes are expensive, textures are cheap: a bank keeps a few thousand shapes, and training paints
them anew at every step.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqtex_core.errors import InputError, UsageError

from .record import FIELDS, GeometryRecord, RecordSizes

INDEX_NAME = "dataset.json"
FORMAT = 1
_RAGGED = ("view_position", "view_normal", "view_part")
_RAGGED_UV = ("uv_position", "uv_normal", "uv_part", "uv_visible", "uv_footprint")


@dataclass(frozen=True, kw_only=True)
class BankEntry:
    """One object of a bank.

    Args:
        index: its number in the synthetic set.
        family: its shape family.
        chart_style: how its UVs were made.
    """

    index: int
    family: str
    chart_style: str


def stacked_records(records: Sequence[GeometryRecord]) -> dict[str, Tensor]:
    """The tensors of one bank file: fixed-size fields stacked, others joined with offsets."""
    tensors: dict[str, Tensor] = {}
    for name in FIELDS:
        values = [getattr(record, name) for record in records]
        ragged = name in _RAGGED or name in _RAGGED_UV
        tensors[name] = torch.cat(values) if ragged else torch.stack(values)
    for name, field in (("view_offsets", "view_part"), ("uv_offsets", "uv_part")):
        lengths = [0] + [len(getattr(record, field)) for record in records]
        tensors[name] = torch.tensor(lengths, dtype=torch.int64).cumsum(0)
    return {name: value.contiguous() for name, value in tensors.items()}


class GeometryBank:
    """Reads the objects of a bank by their place, 0 to ``len - 1``.

    Files are mapped into memory: only what is touched is read, and processes share it.

    Args:
        folder: made by ``seqtex data synth --format bank``.

    Raises:
        InputError: no bank there, or a file of it is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.settings: Mapping[str, Any] = index["settings"]
        self.sizes = RecordSizes(**self.settings["sizes"])
        self.entries: list[BankEntry] = []
        self._starts: list[int] = []
        self._files: list[dict[str, Tensor]] = []
        for name in index["files"]:
            tensors, entries = _read_file(self.folder / name)
            self._starts.append(len(self.entries))
            self._files.append(tensors)
            self.entries += entries

    def __len__(self) -> int:
        return len(self.entries)

    def record(self, place: int) -> GeometryRecord:
        """The object at ``place``; the tensors are views of the mapped file.

        Raises:
            UsageError: no such place.
        """
        if not 0 <= place < len(self):
            raise UsageError("bank place", expected=f"0 to {len(self) - 1}", got=str(place))
        number = bisect_right(self._starts, place) - 1
        tensors, row = self._files[number], place - self._starts[number]
        views = slice(*tensors["view_offsets"][row : row + 2].tolist())
        texels = slice(*tensors["uv_offsets"][row : row + 2].tolist())
        values: dict[str, Tensor] = {}
        for name in FIELDS:
            where = views if name in _RAGGED else texels if name in _RAGGED_UV else row
            values[name] = tensors[name][where]
        return GeometryRecord(**values)

    def places(self, families: Sequence[str]) -> list[int]:
        """Places of the objects of the given shape families."""
        wanted = set(families)
        return [k for k, entry in enumerate(self.entries) if entry.family in wanted]


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"bank {folder}",
            expected=f"a folder with {INDEX_NAME}",
            got=str(error),
            remedy="Make one with `seqtex data synth FOLDER --format bank`.",
        ) from error
    found = (index.get("kind"), index.get("format"))
    if found != ("bank", FORMAT):
        raise InputError(
            str(path), expected=f"a bank of format {FORMAT}", got=f"{found[0]} of format {found[1]}"
        )
    return index


def _read_file(path: Path) -> tuple[dict[str, Tensor], list[BankEntry]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            entries = json.loads(file.metadata()["entries"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            str(path),
            expected="a file of a geometry bank",
            got=str(error),
            remedy="Delete it and run the command that made the bank again.",
        ) from error
    missing = [name for name in (*FIELDS, "view_offsets", "uv_offsets") if name not in tensors]
    if missing:
        raise InputError(str(path), expected="all fields", got=f"no {', '.join(missing)}")
    return tensors, [BankEntry(**entry) for entry in entries]


def num_records(path: Path) -> int:
    """Objects in a bank file, from its header; 0 if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return len(json.loads(file.metadata()["entries"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0


def bank_metadata(entries: Sequence[BankEntry]) -> dict[str, str]:
    """Safetensors metadata of a bank file."""
    return {"entries": json.dumps([asdict(entry) for entry in entries])}
