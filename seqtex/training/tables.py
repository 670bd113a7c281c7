"""TOML tables into frozen dataclasses: every key checked, every type checked."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seqtex_core.errors import UsageError

T = TypeVar("T")


def from_table(cls: type[T], table: Mapping[str, Any], *, where: str) -> T:
    """An instance of dataclass ``cls`` from a parsed table.

    Args:
        cls: a dataclass whose fields are numbers, text, flags, tuples, tables or dataclasses.
        table: from ``tomllib``.
        where: name of the table, for messages.

    Raises:
        UsageError: an unknown key, a missing key, or a value of another type; names it.
    """
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                _below(where, key),
                expected="one of " + ", ".join(known),
                got="an unknown key",
                remedy=f"Did you mean {close[0]!r}?" if close else "",
            )
    for name, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and name not in table:
            raise UsageError(_below(where, name), expected="a value", got="nothing")
    return cls(**{k: _convert(v, hints[k], where=_below(where, k)) for k, v in table.items()})


def _below(where: str, key: str) -> str:
    """The name of a key for messages, as ``--set`` takes it: ``config: run.batch_size``."""
    return f"{where} {key}" if where.endswith(":") else f"{where}.{key}"


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a table", value)
        return from_table(hint, value, where=where)
    if origin in (Union, types.UnionType):
        plain = [arg for arg in get_args(hint) if arg is not type(None)]
        assert len(plain) == 1
        return _convert(value, plain[0], where=where)
    if origin is Literal:
        if value not in get_args(hint):
            raise _wrong(where, "one of " + ", ".join(map(repr, get_args(hint))), value)
        return value
    if origin is tuple:
        return _convert_tuple(value, get_args(hint), where=where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a table", value)
        item = get_args(hint)[1]
        return {k: _convert(v, item, where=f"{where}.{k}") for k, v in value.items()}
    return _scalar(value, hint, where=where)


def _convert_tuple(value: Any, items: tuple[Any, ...], *, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise _wrong(where, f"{len(items)} values", value)
    return tuple(
        _convert(entry, hint, where=f"{where}[{index}]")
        for index, (entry, hint) in enumerate(zip(value, items, strict=True))
    )


def _scalar(value: Any, hint: Any, *, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong_flag = isinstance(value, bool) and hint is not bool
    if not isinstance(value, hint) or wrong_flag:
        raise _wrong(where, hint.__name__, value)
    return value


def _wrong(where: str, expected: str, got: Any) -> UsageError:
    return UsageError(where, expected=expected, got=repr(got))
