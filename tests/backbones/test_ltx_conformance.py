"""LTX-Video passes the conformance suite: both clocks, both spreads of unequal grids."""

from __future__ import annotations

from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance


class TestLTX(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("ltx-video-tiny", seed=0)


class TestLTX095(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("ltx-video-tiny-0.9.5", seed=0)
