"""What makes two sets on disk the same: one JSON file beside their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqtex.outputs import check_writable
from seqtex.records import differences
from seqtex_core.errors import UsageError
from seqtex_core.whole_files import replacing

from .bank import INDEX_NAME

_GROWS = {"count", "files"}
_MOST_NAMED = 6


def claim(folder: Path, description: Mapping[str, Any], *, grows: bool = False) -> None:
    """Write a set's description, or check that it is the one that is there; makes the folder.

    Args:
        folder: of the set.
        description: what makes two sets the same.
        grows: a set with fewer objects may be made longer.

    Raises:
        UsageError: the folder is none, cannot be written, or holds another set; names what differs.
    """
    path = folder / INDEX_NAME
    check_writable(path, option=f"folder {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Any] = json.loads(json.dumps(description))  # tuples become lists
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        different = differences(wanted, {key: found.get(key) for key in wanted})
        if not different:
            return
        longer = grows and set(different) <= _GROWS and found["count"] < wanted["count"]
        if not longer:
            raise _another(folder, different, fewer=grows and set(different) <= _GROWS)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1), encoding="utf-8")


def _another(folder: Path, different: list[str], *, fewer: bool) -> UsageError:
    named = different[:_MOST_NAMED] + (["more"] if len(different) > _MOST_NAMED else [])
    return UsageError(
        f"folder {folder}",
        expected="an empty folder, or the same set to be continued",
        got="a set with more objects" if fewer else f"a set that differs in {', '.join(named)}",
        remedy="Choose another folder, or delete this one.",
    )
