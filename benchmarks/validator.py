"""A validator for the part of JSON Schema that the result files use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KEYWORDS = frozenset(
    {"type", "enum", "minimum", "properties", "required", "additionalProperties", "items"}
)


def problems(value: object, schema: Schema, where: str = "$") -> list[str]:
    """What is wrong with ``value``, one sentence each; empty if it fits.

    Understands ``type``, ``enum``, ``minimum``, ``properties``, ``required``,
    ``additionalProperties`` (a boolean or a schema) and ``items``. Numbers must be finite, because
    JSON has no others.

    Args:
        value: parsed JSON.
        schema: what it should look like.
        where: path of ``value``, for the sentences.

    Raises:
        ValueError: the schema uses a keyword that is not understood.
    """
    return list(_problems(value, schema, where))


def _problems(value: object, schema: Schema, where: str) -> Iterator[str]:
    if unknown := set(schema) - _KEYWORDS:
        raise ValueError(f"schema keywords that are not understood: {sorted(unknown)}")
    if "type" in schema and not _has_type(value, schema["type"]):
        yield f"{where}: expected {schema['type']}, got {type(value).__name__}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: expected one of {list(schema['enum'])}, got {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: expected a finite number, got {value}"
    elif "minimum" in schema and _is_number(value) and value < schema["minimum"]:
        yield f"{where}: expected at least {schema['minimum']}, got {value}"
    if isinstance(value, dict):
        yield from _object_problems(value, schema, where)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{where}[{index}]")


def _object_problems(value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}: {name!r} is missing"
    extra = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from _problems(item, properties[name], f"{where}.{name}")
        elif extra is False:
            yield f"{where}: {name!r} is not known"
        elif extra is not True:
            yield from _problems(item, extra, f"{where}.{name}")


def _has_type(value: object, wanted: str | list[str]) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
