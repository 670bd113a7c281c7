"""Wan passes the conformance suite: text-to-video, and image-to-video with image tokens."""

from __future__ import annotations

from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance


class TestWan(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("wan-tiny", seed=0)


class TestWanImageToVideo(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("wan-tiny-i2v", seed=0)
