"""Distance of outputs from an fp64 reference, and the rule by which they are accepted."""

from __future__ import annotations

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
    if not found.finite or found.relative is None:
        return "NaN or infinity in the output"
    epsilon = torch.finfo(dtype).eps
    if found.plain_relative is None:
        limit = 0.5 * factor * WITHOUT_PLAIN[dtype.itemsize] * epsilon
    else:
        limit = max(FLOOR * epsilon, factor * found.plain_relative)
    if found.relative <= limit:
        return None
    return f"relative error {found.relative:.2e} against fp64, at most {limit:.2e} accepted"
