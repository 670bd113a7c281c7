"""A name -> object table whose built-in entries are imported only when asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from .errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name; listing them imports nothing.

    Args:
        kind: what the entries are, for messages ("backbone", "rasterizer").
        lazy: built-in entries as ``name -> "module:attribute"``.
        entry_point_group: group in which other distributions may declare entries. Optional.
    """

    def __init__(
        self, kind: str, lazy: dict[str, str] | None = None, *, entry_point_group: str | None = None
    ) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = dict(lazy or {})
        self._group = entry_point_group
        self._others: dict[str, str] | None = None

    def register(self, name: str, entry: T | str) -> None:
        """Add an entry: the object itself, or its ``"module:attribute"``.

        Raises:
            UsageError: the name is taken.
        """
        if name in self._entries:
            raise UsageError(
                f"{self.kind} name", expected="a name not yet registered", got=repr(name)
            )
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All known names, sorted, those declared by other distributions included."""
        return sorted({*self._entries, *self._external()})

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UsageError: no such entry; names the closest match.
        """
        entry = self._entries.get(name)
        if entry is None:
            entry = self._external().get(name)
        if entry is None:
            close = difflib.get_close_matches(name, self.names(), n=1)
            raise UsageError(
                f"{self.kind} name",
                expected="one of " + ", ".join(self.names()),
                got=repr(name),
                remedy=f"Did you mean {close[0]!r}?" if close else "",
            )
        if isinstance(entry, str):
            module, attribute = entry.split(":")
            entry = cast(T, getattr(import_module(module), attribute))
            self._entries[name] = entry
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._external()

    def _external(self) -> dict[str, str]:
        """Entries of other distributions; their metadata is slow to read, so it is read once."""
        if self._others is None:
            points = entry_points(group=self._group) if self._group else ()
            self._others = {point.name: point.value for point in points}
        return self._others
