"""Queries and keys made ready for attention: norm, rotation and geometry in one step.

One kernel serves both orders of Geo-Attention, because a rotation is linear:
``rope(norm(q) + c) = rope(norm(q)) + rope(c)``. So the kernel always computes
``rope(norm(q)) + g`` with ``g = c`` (paper) or ``g = rope(c)`` (released weights), and ``g`` does
not change over the sampling steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from .checks import check_floating, check_shape
from .errors import UsageError
from .kernels.choose import kernels_for
from .rope.rotate import Rope, apply_rope, apply_rope_reference, check_rope, compute_dtype, rotate

GeometryOrder = Literal["post_rope", "pre_rope"]
GEOMETRY_ORDERS: tuple[GeometryOrder, ...] = ("post_rope", "pre_rope")


@dataclass(frozen=True, kw_only=True, eq=False)
class QKNorm:
    """Parameters of the norm between a q or k projection and the rotation.

    Args:
        weight: scale, ``[N*D]`` for scope "inner", ``[D]`` for scope "head"; ``None`` is 1.
        bias: shift of the same size, or ``None``.
        eps: added to the mean square or the variance.
        kind: ``"rms"`` divides by the root mean square; ``"layer"`` subtracts the mean first.
        scope: ``"inner"`` normalises over all heads together (Wan), ``"head"`` each head alone
            (CogVideoX).

    Raises:
        UsageError: unknown kind or scope.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-6
    kind: Literal["rms", "layer"] = "rms"
    scope: Literal["inner", "head"] = "inner"

    def __post_init__(self) -> None:
        if self.kind not in ("rms", "layer"):
            raise UsageError("norm kind", expected="'rms' or 'layer'", got=repr(self.kind))
        if self.scope not in ("inner", "head"):
            raise UsageError("norm scope", expected="'inner' or 'head'", got=repr(self.scope))


class QKPrep(Protocol):
    """What :func:`qk_prep` and every kernel that may replace it look like."""

    def __call__(
        self,
        x: Tensor,
        norm: QKNorm | None = None,
        *,
        num_heads: int,
        rope: Rope | None = None,
        geometry: Tensor | None = None,
        geometry_order: GeometryOrder = "post_rope",
    ) -> Tensor:
        """See :func:`qk_prep`."""
        ...


def qk_prep(
    x: Tensor,
    norm: QKNorm | None = None,
    *,
    num_heads: int,
    rope: Rope | None = None,
    geometry: Tensor | None = None,
    geometry_order: GeometryOrder = "post_rope",
) -> Tensor:
    """``rope(norm(x)) + geometry``, ``[B, L, N, D]`` in ``x``'s dtype.

    Computes in fp32 (fp64 for fp64 inputs) and rounds once at the end.

    Args:
        x: output of a q or k projection, ``[B, L, N*D]``.
        norm: the model's own q or k norm; ``None`` for none.
        num_heads: N.
        rope: table with L rows; ``None`` leaves rows unrotated (cross-attention to text).
        geometry: what Geo-Attention adds, ``[B, L, N, D]`` (B may be 1); ``None`` for nothing.
        geometry_order: ``"post_rope"``: added after the rotation (paper, Eq. 6, and geometry that
            :func:`rotate_geometry` turned beforehand); ``"pre_rope"``: added before it (released
            weights).

    Raises:
        UsageError: shapes that do not fit, or an unknown order.

    Source: paper Eq. 5-7.
    """
    _check(x, num_heads, norm, rope, geometry)
    check_order(geometry_order)
    weights = () if norm is None else (norm.weight, norm.bias)
    angles = None if rope is None else rope.cos
    kernels = kernels_for("qk_prep", x, x.shape[-1] // num_heads, geometry, *weights, angles=angles)
    return kernels.prepare_rows(
        x,
        norm,
        num_heads=num_heads,
        rope=rope,
        geometry=geometry,
        geometry_order=geometry_order,
    )


def qk_prep_reference(
    x: Tensor,
    norm: QKNorm | None = None,
    *,
    num_heads: int,
    rope: Rope | None = None,
    geometry: Tensor | None = None,
    geometry_order: GeometryOrder = "post_rope",
) -> Tensor:
    """The definition of :func:`qk_prep`, every step written out."""
    check_order(geometry_order)
    rows = x.to(compute_dtype(x))
    if norm is not None:
        groups = rows.unflatten(-1, (num_heads, -1)) if norm.scope == "head" else rows
        if norm.kind == "layer":
            groups = groups - groups.mean(dim=-1, keepdim=True)
        groups = groups / (groups.pow(2).mean(dim=-1, keepdim=True) + norm.eps).sqrt()
        if norm.weight is not None:
            groups = groups * norm.weight
        if norm.bias is not None:
            groups = groups + norm.bias
        rows = groups.reshape(rows.shape)
    rows = rows.unflatten(-1, (num_heads, -1))
    if geometry is not None and geometry_order == "pre_rope":
        rows = rows + geometry
    if rope is not None:
        rows = apply_rope_reference(rows, rope)
    if geometry is not None and geometry_order == "post_rope":
        rows = rows + geometry
    return rows.to(x.dtype)


def rotate_geometry(geometry: Tensor, rope: Rope) -> Tensor:
    """Geometry turned once per object, so that ``"pre_rope"`` becomes a plain addition.

    ``qk_prep(x, geometry=rotate_geometry(c, rope), geometry_order="post_rope")`` equals
    ``qk_prep(x, geometry=c, geometry_order="pre_rope")`` up to rounding.

    Args:
        geometry: cast geometry, ``[B, L, N, D]``.
        rope: the table of the same rows.

    Raises:
        UsageError: the table does not fit.
    """
    return apply_rope(geometry, rope)


def rotate_and_add(
    rows: Tensor, rope: Rope | None, geometry: Tensor | None, order: GeometryOrder
) -> Tensor:
    """Rotation and geometry on ``rows [B, L, N, D]`` (fp32 or fp64), unchecked and unrounded."""
    if geometry is not None and order == "pre_rope":
        rows = rows + geometry
    if rope is not None:
        rows = rotate(rows, rope)
    if geometry is not None and order == "post_rope":
        rows = rows + geometry
    return rows


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``[B, L, N*D]`` as ``[B, L, N, D]``, without a copy."""
    return x.view(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def check_order(order: str) -> None:
    """Refuse an unknown geometry order.

    Raises:
        UsageError: not one of ``GEOMETRY_ORDERS``.
    """
    if order not in GEOMETRY_ORDERS:
        raise UsageError("geometry_order", expected="'post_rope' or 'pre_rope'", got=repr(order))


def check_geometry(geometry: Tensor, rows: Tensor) -> None:
    """Refuse geometry that does not fit ``rows [B, L, N, D]``.

    Raises:
        UsageError: another shape (a batch of 1 is spread over all samples), dtype or device.
    """
    batch = None if geometry.shape[:1] == (1,) else rows.shape[0]
    check_floating("geometry", geometry)
    if geometry.device != rows.device:
        raise UsageError("geometry", expected=f"on {rows.device}", got=f"on {geometry.device}")
    check_shape("geometry", geometry, (batch, *rows.shape[1:]), "B L N D")


def normalise(wide: Tensor, num_heads: int, norm: QKNorm | None) -> Tensor:
    """The norm of ``wide [B, L, N*D]`` (fp32 or fp64), unchecked and unrounded, in heads."""
    if norm is None:
        return split_heads(wide, num_heads)
    if norm.scope == "head":
        wide = split_heads(wide, num_heads)
    size = list(wide.shape[-1:])
    weight = None if norm.weight is None else norm.weight.to(wide.dtype)
    bias = None if norm.bias is None else norm.bias.to(wide.dtype)
    if norm.kind == "layer":
        normed: Tensor = F.layer_norm(wide, size, weight, bias, norm.eps)
    else:
        normed = F.rms_norm(wide, size, weight, norm.eps)
        normed = normed if bias is None else normed + bias
    return normed if norm.scope == "head" else split_heads(normed, num_heads)


def _check(
    x: Tensor, num_heads: int, norm: QKNorm | None, rope: Rope | None, geometry: Tensor | None
) -> None:
    check_shape("x", x, (None, None, None), "B L N*D")
    check_floating("x", x)
    if num_heads < 1 or x.shape[-1] % num_heads:
        raise UsageError("num_heads", expected=f"a divisor of {x.shape[-1]}", got=str(num_heads))
    if norm is not None:
        size = x.shape[-1] // (num_heads if norm.scope == "head" else 1)
        for name, parameter in (("norm.weight", norm.weight), ("norm.bias", norm.bias)):
            if parameter is not None:
                check_shape(name, parameter, (size,), "N*D" if norm.scope == "inner" else "D")
    rows = split_heads(x, num_heads)
    if rope is not None:
        check_rope(rows, rope)
    if geometry is not None:
        check_geometry(geometry, rows)
