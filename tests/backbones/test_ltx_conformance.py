"""LTX-Video passes the conformance suite, with the later clock and textures over the views."""

from __future__ import annotations

from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance


class TestLTX(BackboneConformance):
    """The other clock and spread differ in tables alone, which ``test_ltx`` compares."""

    def make_backbone(self) -> Backbone:
        return load_backbone("ltx-video-tiny-0.9.5", seed=0)
