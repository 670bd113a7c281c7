"""Records as JSON files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(mine: Any, theirs: Any, where: str = "") -> list[str]:
    """Dotted names of the entries in which two records differ."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        names = sorted({*mine, *theirs})
        below = [
            differences(mine.get(name), theirs.get(name), f"{where}.{name}" if where else name)
            for name in names
        ]
        return [name for found in below for name in found]
    return [] if mine == theirs else [where]
