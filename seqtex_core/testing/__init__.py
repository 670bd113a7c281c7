"""What a backbone must pass: a suite of checks to run on one's own adapter.

Example:
    >>> class TestMine(BackboneConformance):
    ...     def make_backbone(self) -> Backbone:
    ...         return MyBackbone(tiny_model())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .conformance import BackboneConformance as BackboneConformance
    from .copying import CopyConformance as CopyConformance

_EXPORTS = {"BackboneConformance": "conformance", "CopyConformance": "copying"}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
