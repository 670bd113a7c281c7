"""Mesh files below a folder, and the captions that lie beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqtex_core.errors import InputError

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")


@dataclass(frozen=True, kw_only=True)
class MeshFile:
    """One file to prepare.

    Args:
        name: below the folder, with forward slashes.
        size: bytes.
    """

    name: str
    size: int


def find_meshes(folder: Path, *, leave_out: Path | None = None) -> list[MeshFile]:
    """All mesh files below ``folder``, sorted by name; hidden ones are left out.

    Args:
        folder: searched with all folders below it.
        leave_out: a folder that is not searched, such as the one that results go to.

    Raises:
        InputError: no such folder, or no mesh in it.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise InputError(str(folder), expected="a folder with meshes", got=got)
    skipped = None if leave_out is None else leave_out.resolve()
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in MESH_SUFFIXES or not path.is_file():
            continue
        if skipped is None or skipped not in path.resolve().parents:
            found.append(MeshFile(name=relative.as_posix(), size=path.stat().st_size))
    if not found:
        raise InputError(
            str(folder), expected="mesh files: " + ", ".join(MESH_SUFFIXES), got="none"
        )
    return sorted(found, key=lambda file: file.name)


def read_caption_table(path: Path) -> dict[str, dict[str, str]]:
    """Captions by mesh name and style, of a JSON Lines file.

    Every line is ``{"file": NAME, "captions": {STYLE: TEXT, ...}}``; a list of texts and
    ``"caption": TEXT`` are understood too.

    Raises:
        InputError: no such file, or a line that is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), expected="a JSON Lines file", got=str(error)) from error
    table: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, found = entry["file"], _captions_in(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"line {number} of {path.name}",
                expected='{"file": NAME, "captions": {STYLE: TEXT}}',
                got=line[:80],
            ) from error
        if not isinstance(name, str) or found is None:
            raise InputError(
                f"line {number} of {path.name}", expected="a file and captions", got=line[:80]
            )
        table.setdefault(name, {}).update(found)
    return table


def captions_beside(mesh: Path) -> tuple[dict[str, str], list[str]]:
    """Captions by style from ``NAME.json`` and ``NAME.txt``, and notes on what was not used.

    The JSON file holds ``{"captions": {STYLE: TEXT}}``, ``{"captions": [TEXT, ...]}``,
    ``{"caption": TEXT}`` or a list of texts; every line of the text file is a caption.
    """
    captions: dict[str, str] = {}
    notes: list[str] = []
    table, plain = mesh.with_suffix(".json"), mesh.with_suffix(".txt")
    try:
        if table.is_file():
            found = _captions_in(json.loads(table.read_text(encoding="utf-8")))
            captions |= found or {}
            if found is None:
                notes.append(f"{table.name} holds no captions")
        if plain.is_file():
            captions |= _by_line(plain.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        notes.append(f"captions cannot be read: {error}")
    return captions, notes


def _captions_in(value: Any) -> dict[str, str] | None:
    """Captions by style, or ``None`` if the value is no form of captions."""
    if isinstance(value, dict):
        if "captions" in value:
            value = value["captions"]
        elif isinstance(value.get("caption"), str):
            value = [value["caption"]]
        else:
            return None
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return _by_line(value)
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return {str(style): " ".join(text.split()) for style, text in value.items() if text.strip()}
    return None


def _by_line(lines: list[str]) -> dict[str, str]:
    texts = [" ".join(line.split()) for line in lines]
    return {str(number): text for number, text in enumerate(t for t in texts if t)}
