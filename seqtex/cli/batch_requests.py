"""From the items of a manifest to requests, by the ``texture`` command's own options."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import OptionInfo

from seqtex_core.errors import SeqTexError, UsageError

from .batch_manifest import ManifestItem
from .batch_places import check_places, result_path
from .texture_request import TextureRequest

RUN_WIDE = (
    "method", "model", "weights", "vae_weights", "text_weights", "text_embeddings",
    "random_weights", "memory", "device", "dtype", "fp8", "parallel",
)  # fmt: skip
"""What a worker loads once; the same for all items, so given on the command line."""
_SHOWN_ERRORS = 5
_SHOWN_LINES = 3


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

        Args:
            items: all of the manifest, so that two that write one file are found.

        Raises:
            UsageError: names the lines that cannot be used.
        """
        made: list[TextureRequest] = []
        wrong: dict[str, list[str]] = {}
        for item in items:
            try:
                made.append(self._request(item))
            except SeqTexError as error:
                wrong.setdefault(str(error), []).append(f"line {item.line} ({item.name})")
        if wrong:
            raise UsageError(
                self.manifest.name,
                expected="items with options of `seqtex texture`",
                got="\n            ".join(_shown(wrong)),
            )
        check_places(items, made, manifest=self.manifest.name)
        return made

    def _request(self, item: ManifestItem) -> TextureRequest:
        options = dict(item.options)
        mesh = self._path("mesh", options.pop("mesh"))
        out = result_path(self.out, mesh, options.pop("out", None), item.name)
        refused = self._refused_flags(options)
        shared = [argument for argument in self.shared if argument not in refused]
        own = list(self._arguments(options))
        request = self.take([*shared, *own, f"--out={out}", "--", str(mesh)])
        if request.save_intermediates is not None and "save_intermediates" not in options:
            request = replace(request, save_intermediates=request.save_intermediates / item.name)
        request.check()
        return request

    def _refused_flags(self, options: Mapping[str, Any]) -> set[str]:
        """Flags without an opposite that an item sets to false, whatever holds for the others."""
        given = {name: self._options[name] for name in options if name in self._options}
        flags = {name: option for name, option in given.items() if option.opposite is None}
        return {o.flag for name, o in flags.items() if str(options[name]).lower() == "false"}

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
            yield f"--ref={view}={self._path(f'refs, {view}', file)}"

    def _argument(self, name: str, value: Any) -> Iterator[str]:
        if name in RUN_WIDE:
            raise UsageError(name, expected="on the command line, for all items", got="in an item")
        option = self._options.get(name)
        if option is None or name in ("ref", "help"):
            known = [n for n in self._options if n not in RUN_WIDE] + ["mesh", "refs"]
            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                name,
                expected="an option of `seqtex texture`",
                got="an unknown name",
                remedy=f"Did you mean {close[0]!r}?" if close else "",
            )
        if bool in option.types:
            yield from _flag(name, option, value)
        elif isinstance(value, list | Mapping | bool):
            raise UsageError(name, expected="one value", got=json.dumps(value))
        else:
            yield f"{option.flag}={self._path(name, value) if Path in option.types else value}"

    def _path(self, name: str, value: Any) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise UsageError(name, expected="a text, the path of a file", got=repr(value))
        return self.manifest.parent / value


def _shown(wrong: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with which lines: the first few of both."""
    shown = []
    for told, lines in [*wrong.items()][:_SHOWN_ERRORS]:
        more = len(lines) - _SHOWN_LINES
        where = ", ".join(lines[:_SHOWN_LINES]) + (f" and {more} more" if more > 0 else "")
        shown.append(f"{where}: {told}")
    more = sum(len(lines) for lines in [*wrong.values()][_SHOWN_ERRORS:])
    return [*shown, f"and {more} more"] if more else shown


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
