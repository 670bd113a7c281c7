"""The statements of an OBJ file, with the lines that each polygon came from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from ..mesh import IntArray
from .lookup import decode_text

_DRAWN_ELSEWHERE = {b"p": "points", b"l": "lines", b"curv": "curves", b"surf": "surfaces"}


@dataclass(frozen=True, kw_only=True)
class ObjGroup:
    """A run of polygons with the same object, group and material.

    Args:
        name: object or group name.
        part: name of the part that other programs show: its object's, or its group's in a file
            without objects; empty before the first.
        material: name after ``usemtl``, ``None`` before the first.
        first_polygon: index of the run's first polygon.
    """

    name: str
    part: str
    material: str | None
    first_polygon: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjText:
    """An OBJ file as statements.

    Args:
        lines: the file's physical lines with their ends; joined they are the file.
        positions: ``[V, 3]`` float64.
        colors: sRGB, ``[V, 3]``, or ``None``.
        uvs: ``[N, 2]``.
        normals: ``[N, 3]``.
        polygon_lines: first and one-past-last physical line of each polygon, ``[P, 2]``.
        corner_counts: ``[P]``.
        corners: position, UV and normal index of every corner, -1 where absent, ``[C, 3]``.
        groups: runs of polygons, in order.
        library_lines: physical line and value of every ``mtllib``.
        notes: skipped statements.
    """

    lines: tuple[bytes, ...]
    positions: npt.NDArray[np.float64]
    colors: npt.NDArray[np.float64] | None
    uvs: npt.NDArray[np.float64]
    normals: npt.NDArray[np.float64]
    polygon_lines: IntArray
    corner_counts: IntArray
    corners: IntArray
    groups: tuple[ObjGroup, ...]
    library_lines: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class _Collected:
    rows: dict[bytes, list[list[bytes]]] = field(
        default_factory=lambda: {b"v": [], b"vt": [], b"vn": []}
    )
    polygon_lines: list[tuple[int, int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    words: list[bytes] = field(default_factory=list)
    totals: list[tuple[int, int, int]] = field(default_factory=list)
    groups: list[ObjGroup] = field(default_factory=list)
    libraries: list[tuple[int, str]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


def parse_obj_text(path: Path, source: bytes) -> ObjText:
    """The statements of an OBJ file.

    Raises:
        InputError: a number or an index that cannot be read, or an index out of range.
    """
    lines = tuple(source.splitlines(keepends=True))
    collected = _Collected()
    name, part, material = "", "", None
    has_objects = any(line.startswith((b"o ", b"o\t")) for line in lines)
    is_new_group = True
    for first, last, tokens in statements(lines):
        key = tokens[0]
        if key in collected.rows:
            collected.rows[key].append(tokens[1:])
        elif key == b"f":
            if is_new_group:
                start = len(collected.counts)
                collected.groups.append(
                    ObjGroup(name=name, part=part, material=material, first_polygon=start)
                )
                is_new_group = False
            _add_polygon(collected, (first, last), tokens[1:])
        elif key in (b"usemtl", b"o", b"g"):
            value = _rest(lines[first], key)
            is_new_group = True
            if key == b"usemtl":
                material = value
            else:
                name = value or name
                part = part if key == b"g" and has_objects else name
        elif key == b"mtllib":
            collected.libraries.append((first, _rest(lines[first], key)))
        elif key in _DRAWN_ELSEWHERE:
            kind = _DRAWN_ELSEWHERE[key]
            collected.skipped[kind] = collected.skipped.get(kind, 0) + 1
    return _finish(path, lines, collected)


def statements(lines: tuple[bytes, ...]) -> Iterator[tuple[int, int, list[bytes]]]:
    """Logical lines: first and one-past-last physical line, and the words."""
    pending: list[bytes] = []
    start = 0
    for number, line in enumerate(lines):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not pending:
            start = number
        if b"\\" in line and line.rstrip().endswith(b"\\"):
            pending.append(line.rstrip()[:-1])
            continue
        words = (b" ".join([*pending, line]) if pending else line).split()
        pending = []
        if words and not words[0].startswith(b"#"):
            if b"#" in line:
                words = _without_comment(words)
            yield start, number + 1, words


def _without_comment(words: list[bytes]) -> list[bytes]:
    if words[0] not in (b"v", b"vt", b"vn", b"f"):
        return words
    return words[: next((i for i, word in enumerate(words) if word[:1] == b"#"), len(words))]


def _rest(line: bytes, key: bytes) -> str:
    return decode_text(line.split(key, 1)[1].strip())


def _add_polygon(collected: _Collected, where: tuple[int, int], words: list[bytes]) -> None:
    if len(words) < 3:
        kind = "faces with fewer than 3 corners"
        collected.skipped[kind] = collected.skipped.get(kind, 0) + 1
        return
    rows = collected.rows
    collected.polygon_lines.append(where)
    collected.counts.append(len(words))
    collected.words += words
    collected.totals.append((len(rows[b"v"]), len(rows[b"vt"]), len(rows[b"vn"])))


def _corners(path: Path, collected: _Collected) -> IntArray:
    """Zero-based position, UV and normal index of every corner, -1 where absent, ``[C, 3]``."""
    indices = _bulk_indices(collected.words)
    if indices is None:
        indices = _mixed_indices(path, collected)
    polygon = np.repeat(np.arange(len(collected.counts)), collected.counts)
    totals = np.array(collected.totals, dtype=np.int64).reshape(-1, 3)[polygon]
    corners = np.where(indices < 0, totals + indices, indices - 1)
    bad = (indices < 0) & (corners < 0)
    if bad.any():
        row = int(bad.any(axis=1).argmax())
        raise _face_error(path, collected, int(polygon[row]), collected.words[row])
    return corners.astype(np.int64)


def _bulk_indices(words: list[bytes]) -> IntArray | None:
    """All corners at once, if they are all written the same way; else ``None``."""
    if not words:
        return np.zeros((0, 3), np.int64)
    slashes = words[0].count(b"/")
    doubled = b"//" in words[0]
    ending = words[0].endswith(b"/")
    if ending or slashes > 2:
        return None
    text = b" ".join(words)
    if text.count(b"/") != slashes * len(words) or text.count(b"//") != doubled * len(words):
        return None
    if not set(text) <= set(b"0123456789-/ "):
        return None
    if any(word.count(b"/") != slashes or word.endswith(b"/") for word in words):
        return None
    values = _parse_numbers(text.replace(b"//", b"/0/").replace(b"/", b" "), np.int64)
    if values is None or len(values) != len(words) * (slashes + 1):
        return None
    indices = np.zeros((len(words), 3), np.int64)
    indices[:, : slashes + 1] = values.reshape(len(words), -1)
    return indices


def _mixed_indices(path: Path, collected: _Collected) -> IntArray:
    """The same corner by corner; names the line that cannot be read."""
    indices = np.zeros((len(collected.words), 3), np.int64)
    ends = np.cumsum(collected.counts)
    for row, word in enumerate(collected.words):
        try:
            for column, text in enumerate(word.split(b"/")[:3]):
                indices[row, column] = int(text) if text else 0
        except ValueError as error:
            polygon = int(np.searchsorted(ends, row, side="right"))
            raise _face_error(path, collected, polygon, word) from error
    return indices


def _face_error(path: Path, collected: _Collected, polygon: int, word: bytes) -> InputError:
    return InputError(
        f"{path}, line {collected.polygon_lines[polygon][0] + 1}",
        expected="a face like `f 1/1/1 2/2/2 3/3/3`, of elements before it",
        got=repr(decode_text(word)),
        remedy="The file is damaged: export it again.",
    )


def _parse_numbers(text: bytes, dtype: type) -> npt.NDArray[Any] | None:
    """Numbers between spaces; ``None`` if something else is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text.decode("latin-1"), dtype=dtype, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _finish(path: Path, lines: tuple[bytes, ...], collected: _Collected) -> ObjText:
    positions = _numbers(path, "v", collected.rows[b"v"], 3)
    widths = {len(row) for row in collected.rows[b"v"]}
    colors = None
    if widths and min(widths) >= 6:
        colors = _numbers(path, "v", [row[3:6] for row in collected.rows[b"v"]], 3)
    corners = _corners(path, collected)
    uvs = _numbers(path, "vt", collected.rows[b"vt"], 2)
    normals = _numbers(path, "vn", collected.rows[b"vn"], 3)
    for column, (key, limit) in enumerate(
        (("v", len(positions)), ("vt", len(uvs)), ("vn", len(normals)))
    ):
        highest = int(corners[:, column].max(initial=-1))
        missing = key == "v" and bool((corners[:, 0] < 0).any())
        if highest >= limit or missing:
            raise InputError(
                str(path),
                expected=f"`f` indices up to {limit} ({key})",
                got=f"index {0 if missing else highest + 1}",
                remedy="The file is damaged or was cut off: export it again.",
            )
    return ObjText(
        lines=lines,
        positions=positions,
        colors=colors,
        uvs=uvs,
        normals=normals,
        polygon_lines=np.array(collected.polygon_lines, dtype=np.int64).reshape(-1, 2),
        corner_counts=np.array(collected.counts, dtype=np.int64),
        corners=corners,
        groups=tuple(collected.groups),
        library_lines=tuple(collected.libraries),
        notes=tuple(f"{count} {kind} skipped" for kind, count in collected.skipped.items()),
    )


def _numbers(path: Path, key: str, rows: list[list[bytes]], width: int) -> npt.NDArray[np.float64]:
    if not rows:
        return np.zeros((0, width))
    if key == "vt" and min(map(len, rows)) == 1:  # a one-dimensional texture
        rows = [row if len(row) > 1 else [*row, b"0"] for row in rows]
    flat = [word for row in rows for word in row[:width]]
    values = _parse_numbers(b" ".join(flat), np.float64)
    if min(map(len, rows)) < width or values is None or len(values) != len(rows) * width:
        raise InputError(
            str(path),
            expected=f"{width} numbers after each `{key}`",
            got="a line that has not",
            remedy="The file is damaged: export it again.",
        )
    return np.asarray(values.reshape(-1, width), dtype=np.float64)
