"""A name -> object table whose built-in entries are imported only when asked for."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from .errors import MissingDependencyError, SeqTexError, UsageError

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_CLOSE = 0.7  # of difflib's ratio; below it a name is another one, not a slip


class Registry(Generic[T]):
    """Objects by name; listing them imports nothing.

    Args:
        kind: what the entries are, for messages ("backbone", "rasterizer").
        lazy: built-in entries as ``name -> "module:attribute"``.
        entry_point_group: group in which other distributions may declare entries. A name of ours
            that one of them declares too stays ours, with a warning. Optional.
    """

    def __init__(
        self, kind: str, lazy: dict[str, str] | None = None, *, entry_point_group: str | None = None
    ) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = dict(lazy or {})
        self._group = entry_point_group
        self._others: dict[str, EntryPoint] | None = None

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
            MissingDependencyError: the distribution that declares it does not import.
        """
        entry: T | str | EntryPoint | None = self._entries.get(name)
        if entry is None:
            entry = self._external().get(name)
        if entry is None:
            raise self._unknown(name)
        if isinstance(entry, EntryPoint):
            entry = cast(T, self._loaded(entry))
        elif isinstance(entry, str):
            module, attribute = entry.split(":")
            entry = cast(T, getattr(import_module(module), attribute))
        else:
            return entry
        self._entries[name] = entry
        return entry

    def states(self, reason: Callable[[T], str | None]) -> list[tuple[str, str | None]]:
        """Every name with why its entry cannot be used, or ``None``; for listings.

        Args:
            reason: asked of entries that load; of the others it is what kept them from it.
        """
        return [(name, self._state(name, reason)) for name in self.names()]

    def _state(self, name: str, reason: Callable[[T], str | None]) -> str | None:
        try:
            return reason(self.get(name))
        except (SeqTexError, ImportError) as error:
            return str(error)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._external()

    def _external(self) -> dict[str, EntryPoint]:
        """Entries of other distributions; their metadata is slow to read, so it is read once."""
        if self._others is None:
            points = entry_points(group=self._group) if self._group else ()
            self._others = {point.name: point for point in points}
            for name in sorted(self._others.keys() & self._entries.keys()):
                _LOG.warning(
                    "%s %r is seqtex's own: that of %s is not used", self.kind, name,
                    _declared_by(self._others[name]),
                )  # fmt: skip
        return self._others

    def _loaded(self, point: EntryPoint) -> object:
        try:
            return point.load()
        except SeqTexError:
            raise
        except Exception as error:  # whatever somebody else's module does
            raise MissingDependencyError(
                f"{self.kind} {point.name!r}",
                expected=f"{point.value!r}, which {_declared_by(point)} declares",
                got=f"{type(error).__name__}: {error}",
                remedy=f"Repair or uninstall {_declared_by(point)}.",
            ) from error

    def _unknown(self, name: str) -> UsageError:
        remedy = ""
        if close := difflib.get_close_matches(name, self.names(), n=1, cutoff=_CLOSE):
            remedy = f"Did you mean {close[0]!r}?"
        elif self._group:
            remedy = f"Install the package that declares it (entry points {self._group!r})."
        known = "one of " + ", ".join(self.names())
        return UsageError(f"{self.kind} name", expected=known, got=repr(name), remedy=remedy)


def _declared_by(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else "another package"
