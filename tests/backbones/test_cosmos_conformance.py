"""Cosmos passes the conformance suite: image model, and video model with learned positions."""

from __future__ import annotations

from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance


class TestCosmos(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("cosmos-tiny", seed=0)


class TestCosmosVideo(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("cosmos-tiny-video", seed=0)
