"""HunyuanVideo passes the conformance suite with both kinds of blocks."""

from __future__ import annotations

from seqtex_backbones.hunyuan_video.configs import HUNYUAN_VIDEO_TINY
from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance


class TestHunyuanVideo(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone(HUNYUAN_VIDEO_TINY, seed=0)
