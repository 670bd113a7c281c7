"""A small Wan with a copy head passes the conformance suite."""

from __future__ import annotations

import torch

from seqtex_backbones.entry_config import entry_from_config
from seqtex_core.adapter import Backbone
from seqtex_core.testing import CopyConformance

SIZES = {
    "patch_size": [1, 1, 1],
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 6,
    "out_channels": 6,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "text_length": 8,
}


class TestWanCopying(CopyConformance):
    def make_backbone(self) -> Backbone:
        entry = entry_from_config({"name": "copying", "architecture": "wan", "config": SIZES})
        torch.manual_seed(0)
        return entry.build()
