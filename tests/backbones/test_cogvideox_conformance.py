"""CogVideoX passes the conformance suite: sinusoids, interpolated RoPE, doubled frames."""

from __future__ import annotations

from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance


class TestCogVideoX2B(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("cogvideox-tiny-2b", seed=0)


class TestCogVideoX5B(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("cogvideox-tiny-5b", seed=0)


class TestCogVideoX15(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("cogvideox-tiny-1.5", seed=0)
