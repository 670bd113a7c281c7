"""The manifest of ``seqtex batch``: one item per line, with the options of ``seqtex texture``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from seqtex_core.errors import InputError, UsageError

SUFFIXES = (".jsonl", ".ndjson", ".csv")
_LONGEST_NAME = 200
"""Bytes; a file system takes 255, and results and reports add to the name."""


@dataclass(frozen=True, kw_only=True)
class ManifestItem:
    """One line of a manifest.

    Args:
        line: its number, from 1.
        name: of the item, unique in the manifest; also of its report and its result.
        options: as written, without the name; option names have ``_``, not ``-``.
    """

    line: int
    name: str
    options: Mapping[str, Any]


def read_manifest_items(path: Path) -> list[ManifestItem]:
    """The items of a manifest, in order.

    Args:
        path: JSON lines, or CSV with a header (empty cells are not given; ``ref.front`` and so on
            name references by view, as the object ``refs`` does in JSON).

    Raises:
        InputError: no such file, or not of these forms; keys or columns that are there twice.
        UsageError: another ending, items without a mesh or with a name that no file can have, or
            two of one name.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            "MANIFEST",
            expected="a file ending in " + ", ".join(SUFFIXES),
            got=str(path),
            remedy="Name the manifest first, then the options.",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            str(path), expected="a manifest in UTF-8", got=got or str(error)
        ) from error
    rows = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    items = [_item(f"{path.name}, line {line}", line, row) for line, row in rows(text, path.name)]
    if not items:
        raise InputError(str(path), expected="at least one item", got="none")
    lines: dict[str, int] = {}
    for item in items:
        if item.name in lines:
            raise UsageError(
                f"{path.name}, line {item.line}",
                expected="names used once",
                got=f"{item.name!r}, as in line {lines[item.name]}",
                remedy='Give one of them a "name" of its own.',
            )
        lines[item.name] = item.line
    return items


def _item(where: str, line: int, row: Mapping[str, Any]) -> ManifestItem:
    options = {key: value for key, value in row.items() if value is not None}
    mesh = options.get("mesh")
    if not isinstance(mesh, str) or not mesh:
        raise UsageError(where, expected='a "mesh"', got=_shown(row))
    given = "name" in options
    name = options.pop("name", Path(mesh).stem)
    if not _is_file_name(name):
        raise UsageError(
            where,
            expected="a name that files can have: some printable text without folders, which does "
            "not begin with a dot",
            got=f"{name!r}" if given else f"{name!r}, from its mesh {mesh!r}",
            remedy='Change "name".' if given else 'Add a "name".',
        )
    return ManifestItem(line=line, name=name, options=options)


def _is_file_name(name: object) -> bool:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        return False
    return name == Path(name).name and name[0] != "." and len(name.encode("utf-8")) <= _LONGEST_NAME


def _json_rows(text: str, file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not splitlines, which also cuts at characters that JSON texts may hold, such as U+2028.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        where = f"{file}, line {line}"
        try:
            row = json.loads(content, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            raise InputError(where, expected="a JSON object", got=str(error)) from error
        if not isinstance(row, _Pairs):
            raise InputError(where, expected="a JSON object", got=content[:60])
        yield line, _options(row, where)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written, keys that are there twice included."""


def _options(row: _Pairs, where: str) -> dict[str, Any]:
    """The object of a line, whose keys are names of options."""
    found = _once(((key.replace("-", "_"), value) for key, value in row), where)
    return {key: _plain(value, where) for key, value in found.items()}


def _plain(value: Any, where: str) -> Any:
    """A JSON value whose objects are dictionaries."""
    if isinstance(value, _Pairs):
        return {key: _plain(inner, where) for key, inner in _once(value, where).items()}
    return [_plain(inner, where) for inner in value] if isinstance(value, list) else value


def _csv_rows(text: str, file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = [cell.replace("-", "_") for cell in cells]
                _check_header(header, where)
                continue
            if len(cells) != len(header):
                raise InputError(
                    where,
                    expected=f"{len(header)} cells, as in the header",
                    got=f"{len(cells)}",
                    remedy="Empty cells need their commas, too."
                    if len(cells) < len(header)
                    else "Put a cell with a comma in it between double quotes.",
                )
            given = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
            refs = {name[4:]: given.pop(name) for name in [*given] if name.startswith("ref.")}
            yield reader.line_num, given | ({"refs": refs} if refs else {})
    except csv.Error as error:
        where = f"{file}, line {reader.line_num}"
        raise InputError(where, expected="a row of CSV", got=str(error)) from error


def _check_header(header: list[str], where: str) -> None:
    _once(((name, None) for name in header if name), where, what="columns")
    if "refs" in header:
        raise InputError(where, expected="a column for each view, such as ref.front", got="'refs'")


def _once(pairs: Iterable[tuple[str, Any]], where: str, *, what: str = "keys") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            _refuse_twice(key, where, what)
        found[key] = value
    return found


def _refuse_twice(key: str, where: str, what: str) -> NoReturn:
    raise InputError(
        where,
        expected=f"{what} that are there once",
        got=f"{key!r} twice",
        remedy="Remove one; - and _ in a name are the same." if "_" in key else "Remove one.",
    )


def _shown(row: Mapping[str, Any]) -> str:
    text = str(dict(row))
    return text if len(text) <= 100 else f"{text[:97]}..."
