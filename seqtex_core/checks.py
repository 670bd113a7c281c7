"""Shape checks for public functions: one place, one wording."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import UsageError


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None], letters: str) -> None:
    """Refuse a tensor whose shape differs from ``shape``.

    Args:
        name: what the caller calls the tensor.
        tensor: the tensor.
        shape: expected sizes; ``None`` accepts any size.
        letters: the same shape in the library's letters, for the message ("B L N D").

    Raises:
        UsageError: not a tensor, another number of dimensions, or a size that differs.
    """
    if not isinstance(tensor, Tensor):
        raise UsageError(name, expected=f"a tensor [{letters}]", got=repr(tensor))
    fits = tensor.ndim == len(shape) and all(
        want is None or size == want for size, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UsageError(name, expected=f"[{letters}] = [{wanted}]", got=str(list(tensor.shape)))


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that does not hold floating-point numbers.

    Raises:
        UsageError: an integer, boolean or complex tensor.
    """
    if not tensor.is_floating_point():
        raise UsageError(name, expected="a floating-point tensor", got=str(tensor.dtype))


def check_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> None:
    """Refuse tensors that do not fit together as one attention problem.

    Args:
        q: queries, ``[B, Lq, N, D]``.
        k: keys, ``[B, Lk, N, D]``.
        v: values, ``[B, Lk, N, D]``.
        mask: boolean (True = may attend) or additive, broadcastable to ``[B, N, Lq, Lk]``.

    Raises:
        UsageError: shapes, dtypes or devices that do not match.
    """
    check_shape("q", q, (None, None, None, None), "B Lq N D")
    check_floating("q", q)
    batch, q_len, heads, dim = q.shape
    check_shape("k", k, (batch, None, heads, dim), "B Lk N D")
    check_shape("v", v, (batch, k.shape[1], heads, dim), "B Lk N D")
    if k.shape[1] == 0:
        raise UsageError("k", expected="at least one key", got=str(list(k.shape)))
    for name, other in (("k", k), ("v", v)):
        if other.dtype != q.dtype or other.device != q.device:
            raise UsageError(
                name,
                expected=f"{q.dtype} on {q.device}, as q",
                got=f"{other.dtype} on {other.device}",
            )
    if mask is not None:
        if mask.device != q.device:
            raise UsageError("mask", expected=f"one on {q.device}, as q", got=str(mask.device))
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise UsageError("mask", expected="boolean or floating point", got=str(mask.dtype))
        full = (batch, heads, q_len, k.shape[1])
        fits = mask.ndim == 4 and all(
            size in (1, want) for size, want in zip(mask.shape, full, strict=True)
        )
        if not fits:
            raise UsageError(
                "mask", expected=f"broadcastable to {list(full)}", got=str(list(mask.shape))
            )
