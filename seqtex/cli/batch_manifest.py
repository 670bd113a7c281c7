"""The manifest of ``seqtex batch``: one item per line, with the options of ``seqtex texture``."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import OptionInfo

from seqtex_core.errors import InputError, SeqTexError, UsageError

from .texture_request import TextureRequest

SUFFIXES = (".jsonl", ".ndjson", ".csv")
RUN_WIDE = (
    "method", "model", "weights", "vae_weights", "text_weights", "text_embeddings",
    "random_weights", "memory", "device", "dtype", "fp8", "parallel",
)  # fmt: skip
"""What a worker loads once; the same for all items, so given on the command line."""
_SHOWN_ERRORS = 5


@dataclass(frozen=True, kw_only=True)
class ManifestItem:
    """One line of a manifest.

    Args:
        line: its number, from 1.
        name: of the item, unique in the manifest; also of its report and its result.
        options: as written, without the name.
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
        InputError: no such file, or not of these forms.
        UsageError: another ending, items without a mesh, or two of one name.
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
        raise InputError(str(path), expected="a manifest in UTF-8", got=str(error)) from error
    rows = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text, path)
    items = [_item(line, row) for line, row in rows]
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


class ItemParser:
    """Makes requests of items, by the ``texture`` command's own options.

    Args:
        take: the request of a command line of ``seqtex texture``.
        command: that command's function, which says what options there are.
        manifest: paths in items are meant from its folder.
        out: folder of the results.
        shared: options of all items, as on a command line.
    """

    def __init__(
        self,
        take: Callable[[Sequence[str]], TextureRequest],
        command: Callable[..., None],
        *,
        manifest: Path,
        out: Path,
        shared: Sequence[str],
    ) -> None:
        self.take = take
        self.manifest = manifest
        self.out = out
        self.shared = list(shared)
        hints = get_type_hints(command, include_extras=True)
        found = {name: _Option.of(hint) for name, hint in hints.items()}
        self._options = {name: option for name, option in found.items() if option is not None}

    def requests(self, items: Sequence[ManifestItem]) -> list[TextureRequest]:
        """One request per item, with every check that needs no file.

        Raises:
            UsageError: names the lines that cannot be used.
        """
        made, wrong = [], []
        for item in items:
            try:
                made.append(self._request(item))
            except SeqTexError as error:
                wrong.append(f"line {item.line} ({item.name}): {error}")
        if wrong:
            more = len(wrong) - _SHOWN_ERRORS
            shown = wrong[:_SHOWN_ERRORS] + ([f"and {more} more"] if more > 0 else [])
            raise UsageError(
                self.manifest.name,
                expected="items with options of `seqtex texture`",
                got="\n            ".join(shown),
            )
        places: dict[Path, ManifestItem] = {}
        for item, request in zip(items, made, strict=True):
            assert request.out is not None
            other = places.setdefault(request.out.resolve(), item)
            if other is not item:
                raise UsageError(
                    f"{self.manifest.name}, line {item.line}",
                    expected="a result of its own",
                    got=f"{request.out}, as line {other.line}",
                )
        return made

    def _request(self, item: ManifestItem) -> TextureRequest:
        options = dict(item.options)
        mesh = self._path(options.pop("mesh"))
        suffix = ".obj" if mesh.suffix.lower() == ".obj" else ".glb"
        out = self.out / options.pop("out", f"{item.name}_textured{suffix}")
        arguments = [*self.shared, *self._arguments(options), f"--out={out}", "--", str(mesh)]
        request = self.take(arguments)
        if request.save_intermediates is not None and "save_intermediates" not in options:
            request = replace(request, save_intermediates=request.save_intermediates / item.name)
        request.check()
        return request

    def _arguments(self, options: Mapping[str, Any]) -> Iterator[str]:
        for key, value in options.items():
            if key == "refs":
                yield from self._references(value)
            else:
                yield from self._argument(key, value)

    def _references(self, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            raise UsageError(
                "refs", expected='an object such as {"front": "a.png"}', got=str(value)
            )
        for view, file in value.items():
            yield f"--ref={view}={self._path(file)}"

    def _argument(self, key: str, value: Any) -> Iterator[str]:
        name = key.replace("-", "_")
        if name in RUN_WIDE:
            raise UsageError(key, expected="on the command line, for all items", got="in an item")
        option = self._options.get(name)
        if option is None or name in ("ref", "help"):
            known = [n for n in self._options if n not in RUN_WIDE] + ["mesh", "refs"]
            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                key,
                expected="an option of `seqtex texture`",
                got="an unknown name",
                remedy=f"Did you mean {close[0]!r}?" if close else "",
            )
        if bool in option.types:
            yield from _flag(key, option, value)
        elif isinstance(value, list | Mapping | bool):
            raise UsageError(key, expected="one value", got=json.dumps(value))
        else:
            yield f"{option.flag}={self._path(value) if Path in option.types else value}"

    def _path(self, value: Any) -> Path:
        if not isinstance(value, str):
            raise UsageError("path", expected="a text", got=repr(value))
        return self.manifest.parent / value


@dataclass(frozen=True, kw_only=True)
class _Option:
    """An option of the command: its flag, the flag of its opposite if any, and its types."""

    flag: str
    opposite: str | None
    types: tuple[object, ...]

    @classmethod
    def of(cls, hint: Any) -> _Option | None:
        """From a parameter's annotation; ``None`` for an argument."""
        declared = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, OptionInfo)]
        if not declared:
            return None
        # In annotations Typer takes the first name of an option for its default.
        flag, _, opposite = str(declared[0].default).partition("/")
        types = get_args(hint.__origin__) or (hint.__origin__,)
        return cls(flag=flag, opposite=opposite or None, types=types)


def _flag(key: str, option: _Option, value: Any) -> Iterator[str]:
    words = {"true": True, "false": False}
    given = words.get(str(value).lower())
    if given is None:
        raise UsageError(key, expected="true or false", got=repr(value))
    if given:
        yield option.flag
    elif option.opposite is not None:
        yield option.opposite


def _item(line: int, row: Mapping[str, Any]) -> ManifestItem:
    options = {key: value for key, value in row.items() if value is not None}
    mesh = options.get("mesh")
    if not isinstance(mesh, str) or not mesh:
        raise UsageError(f"line {line}", expected='a "mesh"', got=str(dict(row)))
    name = str(options.pop("name", Path(mesh).stem))
    if name != Path(name).name or name.startswith("."):
        raise UsageError(f"line {line}", expected="a name without folders", got=repr(name))
    return ManifestItem(line=line, name=name, options=options)


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise InputError(
                f"{path.name}, line {line}", expected="a JSON object", got=str(error)
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path.name}, line {line}", expected="a JSON object", got=content[:60]
            )
        yield line, row


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines())
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"line {reader.line_num}",
                expected=f"{len(reader.fieldnames or ())} cells, as in the header",
                got="another number",
            )
        given = {key.strip(): value.strip() for key, value in row.items() if value.strip()}
        refs = {key[4:]: given.pop(key) for key in [*given] if key.startswith("ref.")}
        if given or refs:
            yield reader.line_num, given | ({"refs": refs} if refs else {})
