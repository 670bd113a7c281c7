"""Encoded prompts: rows that nothing may read are left out, and what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqtex_core.adapter import BackboneSpec
from seqtex_core.errors import UsageError
from seqtex_core.text_input import readable_text

SIZES: dict[str, Any] = {
    "name": "mine",
    "dim": 8,
    "num_heads": 2,
    "head_dim": 4,
    "num_blocks": 1,
    "latent_channels": 4,
    "patch_size": (1, 2, 2),
    "text_dim": 3,
    "text_length": 5,
    "lora_targets": ("layer",),
}
ROWS_ONLY = BackboneSpec(**SIZES)
WITH_SUMMARY = BackboneSpec(**SIZES, pooled_dim=2)
ROWS = torch.arange(30.0).view(2, 5, 3)


def mask(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows).bool()


def test_text_without_a_mask_is_read_whole() -> None:
    assert readable_text(ROWS, None, None, ROWS_ONLY) == (ROWS, None, None)


def test_rows_hidden_in_all_samples_go_and_the_mask_with_them() -> None:
    rows, left, _ = readable_text(ROWS, mask([1, 0, 1, 0, 0], [1, 0, 1, 0, 0]), None, ROWS_ONLY)
    assert torch.equal(rows, ROWS[:, [0, 2]])
    assert left is None


def test_rows_that_one_sample_reads_stay_for_all() -> None:
    rows, left, _ = readable_text(ROWS, mask([1, 1, 0, 0, 0], [1, 0, 0, 1, 0]), None, ROWS_ONLY)
    assert torch.equal(rows, ROWS[:, [0, 1, 3]])
    assert left is not None
    assert torch.equal(left, mask([1, 1, 0], [1, 0, 1]))


def test_a_summary_goes_to_models_that_read_one() -> None:
    given = torch.ones(2, 2, dtype=torch.float64)
    _, _, pooled = readable_text(ROWS, None, given, WITH_SUMMARY)
    assert pooled is not None
    assert pooled.dtype == ROWS.dtype
    _, _, empty = readable_text(torch.zeros(2, 5, 3), None, None, WITH_SUMMARY)
    assert empty is not None
    assert torch.equal(empty, torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("told", "rows", "given_mask", "pooled", "spec"),
    [
        ("text", ROWS[..., :2], None, None, ROWS_ONLY),
        ("text_mask", ROWS, torch.ones(2, 4).bool(), None, ROWS_ONLY),
        ("boolean", ROWS, torch.ones(2, 5), None, ROWS_ONLY),
        ("in every sample", ROWS, mask([1, 1, 1, 1, 1], [0, 0, 0, 0, 0]), None, ROWS_ONLY),
        ("pooled_text", ROWS, None, torch.ones(2, 2), ROWS_ONLY),
        ("pooled_text", ROWS, None, None, WITH_SUMMARY),
        ("pooled_text", ROWS, None, torch.ones(1, 2), WITH_SUMMARY),
    ],
)
def test_text_that_does_not_fit_is_refused(
    told: str, rows: Any, given_mask: Any, pooled: Any, spec: BackboneSpec
) -> None:
    with pytest.raises(UsageError, match=told):
        readable_text(rows, given_mask, pooled, spec)
