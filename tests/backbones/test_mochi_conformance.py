"""Mochi passes the conformance suite: narrower text, frequencies per head, time reversed."""

from __future__ import annotations

import pytest

from seqtex_backbones.mochi.configs import MOCHI_TINY
from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing import BackboneConformance

# diffusers' Mochi asks for fp32 autocast, which exists on GPUs only; on a CPU it is fp32 anyway.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")


class TestMochi(BackboneConformance):
    # text queries of the last block: diffusers computes them, too, and drops what they attend to
    unused_parameters = (
        "blocks.1.mv.attn1.add_q_proj",
        "blocks.1.mv.attn1.norm_added_q",
    )

    def make_backbone(self) -> Backbone:
        return load_backbone(MOCHI_TINY, seed=0)
