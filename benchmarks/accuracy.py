"""Distance of outputs from an fp64 reference, and the rule by which they are accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .result import Accuracy

FACTOR = 2.0
"""A fast version may be this many times as far from fp64 as plain torch in the same dtype."""
FLOOR = 0.5
"""Below this many machine epsilons, relative to the norm, plain torch may just have been lucky."""
WITHOUT_PLAIN = {2: 1.0, 4: 8.0, 8: 8.0}
"""Machine epsilons that are accepted where plain torch did not run, by size of the dtype: results
in 16 bits are as wrong as their last rounding, wider ones as their sums."""
ROUNDINGS = {2: 24, 4: 8960, 8: 8960}
"""Roundings that reach an output of one layer, by size of the dtype: in 16 bits, where sums are
kept in fp32, one for each operation in a row; in wider ones the terms of the longest sum."""
ONE_ROUNDING = 0.21
"""Root mean square of one, in machine epsilons: uniform in half a unit, over all mantissas."""
TF32 = 2.0**-10
"""Machine epsilon of what fp32 convolutions multiply on CUDA, unless torch is told otherwise."""


def poison(device: torch.device, num_bytes: int) -> None:
    """Fill and free memory with NaN, so that what is never written shows."""
    torch.full((max(1, num_bytes // 4),), torch.nan, device=device)


def compare(
    outputs: Sequence[Tensor],
    again: Sequence[Tensor],
    expected: Sequence[Tensor],
    *,
    reference: str,
) -> Accuracy:
    """Distance of outputs from what was expected, in fp64 over all tensors together.

    Args:
        outputs: of the first call.
        again: of a second call.
        expected: fp64, shaped like ``outputs``.
        reference: what ``expected`` is, in words.

    Raises:
        ValueError: another number of tensors, or other shapes.
    """
    if [o.shape for o in outputs] != [e.shape for e in expected]:
        found = [tuple(o.shape) for o in outputs]
        raise ValueError(f"outputs {found}, expected {[tuple(e.shape) for e in expected]}")
    finite = all(bool(torch.isfinite(o).all()) for o in outputs)
    repeatable = all(torch.equal(o, a) for o, a in zip(outputs, again, strict=True))
    if not finite:
        return Accuracy(
            reference=reference, relative=None, max_abs=None, finite=False, repeatable=repeatable
        )
    error = norm = largest = 0.0
    for output, exact in zip(outputs, expected, strict=True):
        difference = output.double() - exact
        error += float(difference.square().sum())
        norm += float(exact.square().sum())
        largest = max(largest, float(difference.abs().max()) if difference.numel() else 0.0)
    relative = (error / norm) ** 0.5 if norm > 0 else error**0.5
    return Accuracy(
        reference=reference,
        relative=relative,
        max_abs=largest,
        finite=True,
        repeatable=repeatable,
    )


def beside_plain(found: Accuracy, plain: Accuracy | None, name: str | None) -> Accuracy:
    """The same distances with those of plain torch beside them."""
    if plain is None:
        return found
    return replace(found, plain=name, plain_relative=plain.relative, plain_max_abs=plain.max_abs)


def reason_wrong(found: Accuracy, dtype: torch.dtype, *, factor: float = FACTOR) -> str | None:
    """Why outputs at this distance are not accepted, or ``None``.

    Args:
        found: with the distances of plain torch, if there are any.
        dtype: of the computation.
        factor: see ``FACTOR``; more for named approximations.
    """
    epsilon = torch.finfo(dtype).eps
    if found.plain_relative is None:
        limit = 0.5 * factor * WITHOUT_PLAIN[dtype.itemsize] * epsilon
    else:
        limit = max(FLOOR * epsilon, factor * found.plain_relative)
    return reason_beyond(found, limit)


def plain_limit(dtype: torch.dtype, depth: int, *, tf32: bool = False) -> float:
    """The relative error up to which plain torch itself is accepted.

    Roundings are independent, so their squares add up: over the operations or terms of a layer, and
    over the layers, as normed layers pass errors on without making them larger.

    Args:
        dtype: of the computation.
        depth: layers that outputs went through one after the other.
        tf32: products of fp32 operands are in TF32, which has the mantissa of fp16.
    """
    if tf32 and dtype == torch.float32:
        return ONE_ROUNDING * math.sqrt(ROUNDINGS[2] * depth) * TF32
    roundings = ROUNDINGS[dtype.itemsize] * depth
    return ONE_ROUNDING * math.sqrt(roundings) * torch.finfo(dtype).eps


def reason_beyond(found: Accuracy, limit: float) -> str | None:
    """Why outputs at this distance are further away than a limit, or ``None``."""
    if not found.finite or found.relative is None:
        return "NaN or infinity in the output"
    if found.relative <= limit:
        return None
    return f"relative error {found.relative:.2e} against fp64, at most {limit:.2e} accepted"
