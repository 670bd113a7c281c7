"""What a backbone must pass: a suite of checks to run on one's own adapter.

Example:
    >>> class TestMine(BackboneConformance):
    ...     def make_backbone(self) -> Backbone:
    ...         return MyBackbone(tiny_model())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conformance import BackboneConformance as BackboneConformance

_EXPORTS = {"BackboneConformance": "conformance"}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
