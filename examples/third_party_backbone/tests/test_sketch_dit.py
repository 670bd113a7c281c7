"""The example's own tests: it is a SeqTex backbone, and files find their way into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sketch_dit.entry import SKETCH_DIT
from sketch_dit.model import SketchDiT

from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_core.adapter import Backbone
from seqtex_core.errors import WeightsError
from seqtex_core.testing import BackboneConformance


class TestSketchDiT(BackboneConformance):
    """Everything that the library relies on."""

    def make_backbone(self) -> Backbone:
        """Seeded weights."""
        return load_backbone(SKETCH_DIT, seed=0)


def test_weights_of_the_original_load_under_their_own_names(tmp_path: Path) -> None:
    """Every tensor arrives."""
    torch.manual_seed(1)
    original = SketchDiT()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    loaded = native_tensors(load_backbone(SKETCH_DIT, weights=tmp_path / "model.safetensors"))
    assert set(loaded) == set(original.state_dict())
    assert all(torch.equal(loaded[name], x) for name, x in original.state_dict().items())


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    """The message says what does not fit."""
    save_file(SketchDiT(dim=24).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="misshapen"):
        load_backbone(SKETCH_DIT, weights=tmp_path / "model.safetensors")
