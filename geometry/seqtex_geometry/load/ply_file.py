"""PLY containers: the header and its element tables, ASCII and binary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2",
    "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_DAMAGED = "The file is damaged or was cut off: copy or export it again."
AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PlyProperty:
    """A column of an element: scalars, or lists when ``count_type`` is set."""

    name: str
    value_type: str
    count_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlyElement:
    """One kind of record, ``count`` of them."""

    name: str
    count: int
    properties: tuple[PlyProperty, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlyList:
    """Lists of one column: row ``i`` has ``counts[i]`` entries of ``values``, one after another."""

    counts: npt.NDArray[np.int64]
    values: AnyArray


PlyTable = dict[str, AnyArray | PlyList]


def read_ply_tables(path: Path, source: bytes) -> tuple[dict[str, PlyTable], list[str]]:
    """All element tables of a PLY file, by element and column, and its comment lines.

    Raises:
        InputError: no PLY header, an unknown type, or fewer bytes than declared.
    """
    end = re.search(rb"end_header[ \t]*\r?\n", source)
    if not source.startswith(b"ply") or end is None:
        raise _error(path, "a PLY header", "other content, or a header without an end")
    lines = source[: end.start()].decode("latin-1").split("\n")
    order, elements, comments = _parse_header(path, lines)
    body = source[end.end() :]
    tables: dict[str, PlyTable] = {}
    if order == "":
        words = body.split()
        position = 0
        for element in elements:
            tables[element.name], position = _read_ascii(path, words, position, element)
    else:
        offset = 0
        for element in elements:
            tables[element.name], offset = _read_binary(path, body, offset, element, order)
    return tables, comments


def _parse_header(path: Path, lines: list[str]) -> tuple[str, list[PlyElement], list[str]]:
    order: str | None = None
    elements: list[PlyElement] = []
    comments: list[str] = []
    orders = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
    for line in lines[1:]:
        words = line.split()
        if not words:
            continue
        try:
            if words[0] == "format":
                order = orders[words[1]]
            elif words[0] == "comment":
                comments.append(line.split("comment", 1)[1].strip())
            elif words[0] == "element":
                elements.append(PlyElement(name=words[1], count=int(words[2]), properties=()))
            elif words[0] == "property":
                last = elements[-1]
                elements[-1] = PlyElement(
                    name=last.name,
                    count=last.count,
                    properties=(*last.properties, _property(words)),
                )
        except (KeyError, IndexError, ValueError) as error:
            raise _error(path, "a valid header line", f"{line.strip()!r}") from error
    if order is None:
        raise _error(path, "a `format` line", "none")
    return order, elements, comments


def _property(words: list[str]) -> PlyProperty:
    if words[1] == "list":
        return PlyProperty(name=words[4], value_type=_TYPES[words[3]], count_type=_TYPES[words[2]])
    return PlyProperty(name=words[2], value_type=_TYPES[words[1]])


def _read_ascii(
    path: Path, words: list[bytes], position: int, element: PlyElement
) -> tuple[PlyTable, int]:
    columns: dict[str, list[bytes]] = {item.name: [] for item in element.properties}
    counts: dict[str, list[int]] = {item.name: [] for item in element.properties}
    start, width = position, len(element.properties)
    try:
        if all(item.count_type is None for item in element.properties):
            position += width * element.count
            block = np.array(words[start:position]).reshape(element.count, width)
            return {
                item.name: block[:, index].astype(np.float64)
                for index, item in enumerate(element.properties)
            }, position
        for _ in range(element.count):
            for item in element.properties:
                length = 1
                if item.count_type is not None:
                    length = int(words[position])
                    position += 1
                    counts[item.name].append(length)
                if length < 0 or position + length > len(words):
                    raise ValueError(f"ends within element {element.name}")
                columns[item.name] += words[position : position + length]
                position += length
        table: PlyTable = {}
        for item in element.properties:
            values = np.array(columns[item.name] or [b"0"]).astype(np.float64)
            values = values[: len(columns[item.name])]
            table[item.name] = (
                values
                if item.count_type is None
                else PlyList(counts=np.array(counts[item.name], np.int64), values=values)
            )
    except (ValueError, IndexError) as error:
        raise _error(path, f"{element.count} rows of {element.name}", str(error)) from error
    return table, position


def _read_binary(
    path: Path, body: bytes, offset: int, element: PlyElement, order: str
) -> tuple[PlyTable, int]:
    counts = _uniform_counts(body, offset, element, order)
    if counts is None:
        return _read_ragged(path, body, offset, element, order)
    record = _record(element, counts, order)
    size = record.itemsize * element.count
    if offset + size > len(body):
        if counts:  # later lists may be shorter than the first
            return _read_ragged(path, body, offset, element, order)
        got = f"{max(len(body) - offset, 0)} of {size} bytes"
        raise _error(path, f"{element.count} rows of {element.name}", got)
    rows = np.frombuffer(body, record, count=element.count, offset=offset)
    table: PlyTable = {}
    for item in element.properties:
        if item.count_type is None:
            table[item.name] = rows[item.name]
            continue
        length = counts[item.name]
        if (rows[f"{item.name}#"] != length).any():
            return _read_ragged(path, body, offset, element, order)
        table[item.name] = PlyList(
            counts=np.full(element.count, length, np.int64), values=rows[item.name].reshape(-1)
        )
    return table, offset + size


def _uniform_counts(
    body: bytes, offset: int, element: PlyElement, order: str
) -> dict[str, int] | None:
    """List lengths of the first row, taken as those of all rows; checked by the caller."""
    counts: dict[str, int] = {}
    for item in element.properties:
        if item.count_type is None:
            offset += np.dtype(item.value_type).itemsize
            continue
        dtype = np.dtype(order + item.count_type)
        if element.count == 0:
            counts[item.name] = 0
            continue
        if offset + dtype.itemsize > len(body):
            return None
        counts[item.name] = int(np.frombuffer(body, dtype, count=1, offset=offset)[0])
        if not 0 <= counts[item.name] <= len(body):
            return None
        offset += dtype.itemsize + counts[item.name] * np.dtype(item.value_type).itemsize
    return counts


def _record(element: PlyElement, counts: dict[str, int], order: str) -> np.dtype[Any]:
    fields: list[Any] = []
    for item in element.properties:
        if item.count_type is None:
            fields.append((item.name, order + item.value_type))
        else:
            fields.append((f"{item.name}#", order + item.count_type))
            fields.append((item.name, order + item.value_type, (counts[item.name],)))
    return np.dtype(fields)


def _read_ragged(
    path: Path, body: bytes, offset: int, element: PlyElement, order: str
) -> tuple[PlyTable, int]:
    pieces: dict[str, list[AnyArray]] = {item.name: [] for item in element.properties}
    try:
        for _ in range(element.count):
            for item in element.properties:
                length = 1
                if item.count_type is not None:
                    kind = np.dtype(order + item.count_type)
                    length = int(np.frombuffer(body, kind, count=1, offset=offset)[0])
                    offset += kind.itemsize
                dtype = np.dtype(order + item.value_type)
                if length < 0:
                    raise ValueError(f"a list of {length} entries")
                pieces[item.name].append(
                    np.frombuffer(body, dtype, count=length, offset=offset)
                    if length
                    else np.zeros(0, dtype)
                )
                offset += dtype.itemsize * length
    except ValueError as error:
        raise _error(path, f"{element.count} rows of {element.name}", str(error)) from error
    table: PlyTable = {}
    for item in element.properties:
        values = np.concatenate(pieces[item.name] or [np.zeros(0)])
        lengths = np.array([len(piece) for piece in pieces[item.name]], np.int64)
        table[item.name] = (
            values if item.count_type is None else PlyList(counts=lengths, values=values)
        )
    return table, offset


def _error(path: Path, expected: str, got: str) -> InputError:
    return InputError(str(path), expected=expected, got=got, remedy=_DAMAGED)
