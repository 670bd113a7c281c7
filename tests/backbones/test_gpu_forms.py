"""The forms that a GPU takes without Triton, run on a CPU: the conformance suite's accuracy checks.

Whole tensors instead of pieces, norms rounded before they are modulated, both streams through
cross-attention together. The checks are those of the conformance suite, tolerances included.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.inference import joint_layers, prepare_for_inference
from seqtex_core.kernels import eager
from seqtex_core.testing import BackboneConformance
from seqtex_core.transformer import SeqTexTransformer


class _Together(BackboneConformance):
    """Of a named backbone; both streams pass through a shared cross-attention at once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make_backbone(self) -> Backbone:
        return load_backbone(self.name, seed=0)

    def make_transformer(self, *args: Any, **options: Any) -> SeqTexTransformer:
        transformer = super().make_transformer(*args, **options)
        for block in transformer.muv_blocks():
            block.cross_together = True
        return transformer


BACKBONES = (
    "wan-tiny",
    "cosmos-tiny",
    "cogvideox-tiny-5b",
    "hunyuan-video-tiny",
    "ltx-video-tiny",
    "mochi-tiny",
)
ACCURACY = "test_bfloat16_is_as_accurate_as_the_original"
CHECKS = (
    ACCURACY,
    "test_mv_equals_the_original_with_levels_per_frame",
    "test_mv_with_adapters_equals_the_original_with_merged_weights",
    "test_uv_block_0_equals_joint_attention_at_init",
    "test_packed_tokens_equal_the_dense_run_with_hidden_keys",
    "test_a_batch_equals_its_samples",
)
CASES = [(name, check) for name in BACKBONES[:2] for check in CHECKS]
CASES += [(name, check) for name in BACKBONES[2:] for check in (ACCURACY, CHECKS[2])]


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize(("name", "check"), CASES)
def test_conformance(name: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(eager, "_in_pieces", lambda x: False)
    counted = eager.EagerKernels.modulated_norm

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(1)
        return counted(*args, **kwargs)

    monkeypatch.setattr(eager.EagerKernels, "modulated_norm", staticmethod(watched))
    getattr(_Together(name), check)()
    assert seen


@pytest.mark.parametrize("name", BACKBONES)
def test_projections_of_the_same_rows_as_one_product(name: str) -> None:
    """All groups can be joined, and the model computes what it did, but for another product."""
    suite = _Together(name)
    transformer = suite.make_transformer()
    inputs = suite.make_inputs(transformer)
    before = suite.velocity(transformer, inputs)
    prepare_for_inference(transformer)
    groups = list(joint_layers(transformer))
    assert len(groups) >= 2 * transformer.spec.num_blocks
    for layers in groups:
        weights: list[Any] = [layer.weight for layer in layers]
        assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    after = suite.velocity(transformer, inputs)
    for group, velocity in after.items():
        suite.assert_close(group, velocity, before[group], times=4)  # merged adapters round, too
