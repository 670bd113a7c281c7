"""The SeqTex application: pipeline, command line, manifests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .prepare import PreparedJob as PreparedJob
    from .prepare import prepare_job as prepare_job
    from .prepare_options import PrepareOptions as PrepareOptions
    from .project import project_references as project_references
    from .result import TextureResult as TextureResult
    from .silhouettes import Reference as Reference

_EXPORTS = {
    "PrepareOptions": "prepare_options",
    "PreparedJob": "prepare",
    "Reference": "silhouettes",
    "TextureResult": "result",
    "prepare_job": "prepare",
    "project_references": "project",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, so that the package itself is cheap."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
