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
from seqtex_core.kernels import eager
from seqtex_core.testing import BackboneConformance
from seqtex_core.transformer import SeqTexTransformer


class _Wan(BackboneConformance):
    def make_backbone(self) -> Backbone:
        return load_backbone("wan-tiny", seed=0)

    def make_transformer(self, *args: Any, **options: Any) -> SeqTexTransformer:
        transformer = super().make_transformer(*args, **options)
        for block in transformer.muv_blocks():
            block.cross_together = True
        return transformer


CHECKS = (
    "test_bfloat16_is_as_accurate_as_the_original",
    "test_mv_equals_the_original_with_levels_per_frame",
    "test_mv_with_adapters_equals_the_original_with_merged_weights",
    "test_uv_block_0_equals_joint_attention_at_init",
    "test_packed_tokens_equal_the_dense_run_with_hidden_keys",
    "test_a_batch_equals_its_samples",
)


@pytest.mark.parametrize("check", CHECKS)
def test_conformance(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(eager, "_in_pieces", lambda x: False)
    counted = eager.EagerKernels.modulated_norm

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(1)
        return counted(*args, **kwargs)

    monkeypatch.setattr(eager.EagerKernels, "modulated_norm", staticmethod(watched))
    getattr(_Wan(), check)()
    assert seen
