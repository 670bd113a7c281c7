"""The name under which SeqTex finds the model; imported only when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seqtex_core.adapter import Backbone


@dataclass(frozen=True, kw_only=True)
class SketchEntry:
    """See ``seqtex_backbones.registry.BackboneEntry``."""

    name: str = "sketch-dit"
    summary: str = "a small DiT from another distribution; there are no trained weights"
    keep_in_fp32: tuple[str, ...] = ()

    def build(self) -> Backbone:
        """The model with random weights."""
        from .backbone import SketchBackbone
        from .model import SketchDiT

        return SketchBackbone(SketchDiT())

    def native_names(self, keys: Iterable[str]) -> dict[str, str]:
        """Files use the model's own names."""
        return {key: key for key in keys}

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """Of a ``config.json`` beside the weights."""
        from .model import SketchDiT

        ours = SketchDiT().config
        return [
            f"{name} is {config[name]}, not {value}"
            for name, value in ours.items()
            if name in config and config[name] != value
        ]


SKETCH_DIT = SketchEntry()
