"""The record of a run, written beside its output and, but for times, inside the glTF file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seqtex_core.errors import InputError

SCHEMA = 1
_RECORDED_PACKAGES = ("seqtex", "torch", "diffusers", "numpy", "trimesh", "xatlas", "embreex")


@cache
def installed_versions() -> Mapping[str, str]:
    """Versions of Python and of the recorded packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """An input file.

    Args:
        role: "mesh", or "reference front" and so on.
        name: file name without its folder.
        sha256: hash of its bytes.
    """

    role: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The weights that were used.

    Args:
        name: as the user named it (a local folder: its last part).
        sha256: hash over the weight files.
        notes: what the user must know, such as "untrained".
    """

    name: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was run on what, with which settings, and how long its stages took.

    Args:
        method: "project" or "model".
        settings: every option that changes the result, resolved (no "auto" left).
        inputs: the files that were read.
        choices: what was decided automatically, as shown to the user.
        stage_seconds: wall-clock time per stage, in order.
        seed: of all randomness; ``None`` for methods without any.
        model: the weights, if any.
        task: the task, for the model method.
        versions: of Python and of the packages that matter.
    """

    method: str
    settings: Mapping[str, Any]
    inputs: tuple[FileRecord, ...]
    choices: Mapping[str, str]
    stage_seconds: Mapping[str, float]
    seed: int | None = None
    model: ModelRecord | None = None
    task: str | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: dict(installed_versions()))

    def to_json(self, *, with_times: bool = True) -> dict[str, Any]:
        """Plain JSON types only.

        Args:
            with_times: of the stages; without them, two equal runs have equal records.
        """
        model = self.model
        seconds = {name: round(s, 3) for name, s in self.stage_seconds.items()}
        record = {
            "schema": SCHEMA,
            "generator": f"seqtex {self.versions.get('seqtex', 'unknown')}",
            "method": self.method,
            "task": self.task,
            "seed": self.seed,
            "model": None
            if model is None
            else {"name": model.name, "sha256": model.sha256, "notes": list(model.notes)},
            "settings": dict(self.settings),
            "inputs": [
                {"role": file.role, "name": file.name, "sha256": file.sha256}
                for file in self.inputs
            ],
            "choices": dict(self.choices),
            "versions": dict(self.versions),
        }
        return record | ({"stage_seconds": seconds} if with_times else {})

    def write(self, path: Path) -> None:
        """Write the record as indented JSON."""
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """The JSON of a manifest.

    Raises:
        InputError: the file cannot be read or is no manifest of ours.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), expected="a manifest", got=str(error)) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise InputError(str(path), expected=f"a manifest of schema {SCHEMA}", got="another file")
    return record


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
