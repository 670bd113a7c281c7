"""Encoded prompts as a backbone reads them: checked, and without rows that nothing may read."""

from __future__ import annotations

import torch
from torch import Tensor

from .adapter import BackboneSpec
from .checks import check_shape
from .errors import UsageError


def readable_text(
    rows: Tensor, mask: Tensor | None, pooled: Tensor | None, spec: BackboneSpec
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows, mask and summary, without the rows that no sample may read.

    Hidden rows change nothing that is read. There is no mask where none is left to hide, so that
    any attention will do; a single prompt never needs one.

    Args:
        rows: ``[B, S, text_dim]``.
        mask: which of them may be read, boolean ``[B, S]``; ``None`` for all, or in models with
            ``spec.masks_text`` for the first and those that are not zero throughout: text encoders
            leave zeros where a prompt has ended.
        pooled: summary ``[B, pooled_dim]``; may be left out where all rows are zero.
        spec: of the backbone.

    Raises:
        UsageError: other shapes or widths, a sample with nothing to read, or a summary for a model
            that reads none or none for one that does.
    """
    check_shape("text", rows, (None, None, spec.text_dim), "B S text_dim")
    pooled = _summary(rows, pooled, spec)
    if mask is None and spec.masks_text:
        mask = rows.ne(0).any(dim=-1)
        mask[:, :1] = True
    if mask is None:
        return rows, None, pooled
    check_shape("text_mask", mask, tuple(rows.shape[:2]), "B S")
    if mask.dtype != torch.bool:
        raise UsageError("text_mask", expected="boolean", got=str(mask.dtype))
    if not bool(mask.any(dim=1).all()):
        raise UsageError("text_mask", expected="a row to read in every sample", got="none in one")
    mask = mask.to(rows.device)
    read = mask.any(dim=0)
    mask, rows = mask[:, read], rows[:, read]
    return rows, None if bool(mask.all()) else mask, pooled


def _summary(rows: Tensor, pooled: Tensor | None, spec: BackboneSpec) -> Tensor | None:
    width = spec.pooled_dim
    if pooled is None and width is not None and not bool(rows.any()):
        return rows.new_zeros(rows.shape[0], width)
    if (pooled is None) != (width is None):
        raise UsageError(
            "pooled_text",
            expected="none: the model reads rows only" if width is None else f"[B, {width}]",
            got="none" if pooled is None else str(list(pooled.shape)),
        )
    if pooled is None:
        return None
    check_shape("pooled_text", pooled, (rows.shape[0], width), "B pooled_dim")
    return pooled.to(rows)
