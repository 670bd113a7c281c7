"""Checks of arguments for public functions: one place, one wording.

None of them reads a value from a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .errors import UsageError
from .transforms import is_transformed


def check_type(name: str, value: object, kind: type, *, remedy: str = "") -> None:
    """Refuse a value that is not a ``kind``.

    Raises:
        UsageError: names both types, and prints no value.
    """
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise UsageError(name, expected=f"a {kind.__name__}", got=got, remedy=remedy)


def check_callable(name: str, value: object, *, expected: str, remedy: str = "") -> None:
    """Refuse what cannot be called.

    Raises:
        UsageError: such as a name or a finished object.
    """
    if not callable(value):
        got = repr(value) if isinstance(value, str) else type(value).__name__
        raise UsageError(name, expected=expected, got=got, remedy=remedy)


def check_mapping(name: str, value: object, of: str = "tensors") -> None:
    """Refuse anything but a mapping by group name.

    Raises:
        UsageError: such as a bare tensor.
    """
    if not isinstance(value, Mapping):
        raise UsageError(
            name, expected=f"a mapping of {of} by group name", got=type(value).__name__
        )


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
        raise UsageError(name, expected=f"a tensor [{letters}]", got=type(tensor).__name__)
    fits = tensor.ndim == len(shape) and all(
        want is None or size == want for size, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UsageError(name, expected=f"[{letters}] = [{wanted}]", got=str(list(tensor.shape)))


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that does not hold floating-point numbers.

    Raises:
        UsageError: no tensor, or an integer, boolean or complex one.
    """
    check_type(name, tensor, Tensor)
    if not tensor.is_floating_point():
        raise UsageError(name, expected="a floating-point tensor", got=str(tensor.dtype))


def check_like(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Refuse a tensor that a layer with ``weight`` cannot read; autocast converts dtypes itself.

    Raises:
        UsageError: no floating point, another device, or another dtype without autocast.
    """
    check_floating(name, tensor)
    if tensor.device != weight.device:
        raise UsageError(
            name, expected=f"one on {weight.device}, as the weights", got=str(tensor.device)
        )
    if tensor.dtype == weight.dtype or weight.dtype.itemsize == 1:  # 8-bit layers convert, too
        return
    kind = tensor.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        raise UsageError(name, expected=f"{weight.dtype}, as the weights", got=str(tensor.dtype))


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """Refuse a tensor on another device than the model's.

    Raises:
        UsageError: names both devices.
    """
    if tensor.device != device:
        raise UsageError(name, expected=f"one on {device}, as the model", got=str(tensor.device))


def check_levels(name: str, sigma: Tensor) -> None:
    """Refuse noise levels that are not in [0, 1], as far as the host sees them.

    Values are read on a CPU only: on a GPU that would make the host wait in every step.

    Raises:
        UsageError: no floating point, NaN, or a level outside [0, 1].
    """
    check_floating(name, sigma)
    plain = sigma.device.type == "cpu" and type(sigma) is Tensor
    if not plain or torch.compiler.is_compiling() or is_transformed():
        return
    if not bool(((sigma >= 0) & (sigma <= 1)).all()):
        low, high = (float(x) for x in sigma.detach().aminmax())
        raise UsageError(
            name,
            expected="noise levels in [0, 1]",
            got=f"{low:g} to {high:g}",
            remedy="Divide timesteps by 1000." if high > 1 else "",
        )


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
                "mask",
                expected=f"[B, N, Lq, Lk] = {list(full)}, 1 for any of them",
                got=str(list(mask.shape)),
                remedy="Use mask[None, None]." if mask.shape == full[2:] else "",
            )
