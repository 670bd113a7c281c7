"""Launching the Triton kernels of queries and keys: shapes, strides, gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rope.rotate import Rope

if TYPE_CHECKING:
    from ..query_key import QKNorm

STRIP = 16
"""Tokens of a program backward: partial sums of weight gradients are this much smaller than x."""


class Preparation(NamedTuple):
    """What :func:`prepare_rows` does besides its tensors.

    Attributes:
        num_heads: N.
        norm: its options; the weights are passed on their own.
        rope: table, or ``None``.
        geometry_first: geometry is added before the rotation.
    """

    num_heads: int
    norm: QKNorm | None
    rope: Rope | None
    geometry_first: bool

    def angles(self, none: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rows; ``none`` twice without a rotation."""
        if self.rope is None:
            return none, none
        return self.rope.cos.contiguous(), self.rope.sin.contiguous()

    def constants(self, head_dim: int) -> dict[str, Any]:
        """Compile-time constants of both kernels."""
        norm, rope = self.norm, self.rope
        return {
            "N": self.num_heads,
            "D": head_dim,
            "BN": power_of_two(self.num_heads),
            "NORM": norm is not None,
            "LAYER": norm is not None and norm.kind == "layer",
            "NORM_PER_HEAD": norm is not None and norm.scope == "head",
            "WEIGHT": norm is not None and norm.weight is not None,
            "ROPE": rope is not None,
            "ROPE_PER_HEAD": rope is not None and rope.cos.ndim == 3,
            "HALF": rope is not None and rope.pairing == "half",
            "num_warps": warps(power_of_two(self.num_heads) * head_dim),
        }


def prepare_rows(x: Tensor, geometry: Tensor | None, what: Preparation) -> Tensor:
    """``rope(norm(x)) + geometry``, ``[B, L, N, D]``, with gradients; see ``qk_prep``."""
    norm = what.norm
    weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
    rows = _Prepare.apply(x, weight, bias, geometry, what)  # type: ignore[no-untyped-call]
    return cast(Tensor, rows)


def warps(elements: int) -> int:
    """Warps of a program over a row: eight elements per thread, so that access is 128 bits wide.

    At most 16: more would leave a thread 64 registers, too few for the sums of the backward pass.
    """
    return min(max(elements // (32 * 8), 1), 16)


class _Prepare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        geometry: Tensor | None,
        what: Preparation,
    ) -> Tensor:
        """The kernel."""
        heads = (what.num_heads, x.shape[-1] // what.num_heads)
        x = x if x.stride(-1) == 1 else x.contiguous()
        spread = None if geometry is None else _dense_rows(geometry)
        out = torch.empty((*x.shape[:-1], *heads), dtype=x.dtype, device=x.device)
        _kernels().prepare_forward[(x.shape[0] * x.shape[1],)](
            x,
            out,
            x if weight is None else weight,
            x if bias is None else bias,
            *what.angles(x),
            x if spread is None else spread,
            x.shape[1],
            x.stride(0),
            x.stride(1),
            0 if spread is None or spread.shape[0] == 1 else spread.stride(0),
            0 if spread is None else spread.stride(1),
            0.0 if what.norm is None else what.norm.eps,
            BIAS=bias is not None,
            GEOMETRY=geometry is not None,
            GEOMETRY_FIRST=what.geometry_first,
            **what.constants(heads[1]),
        )
        ctx.save_for_backward(x, weight)
        ctx.what, ctx.has_bias = what, bias is not None
        ctx.geometry = None if geometry is None else (geometry.shape, geometry.dtype)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Everything but the strips' sums in one kernel."""
        x, weight = ctx.saved_tensors
        what: Preparation = ctx.what
        grad = grad.contiguous()
        batch, length, heads, head_dim = grad.shape
        tokens = batch * length
        strips = -(-tokens // STRIP)
        turned = ctx.geometry is not None and what.geometry_first
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_geometry = torch.empty_like(grad) if turned else grad
        parts = torch.empty(2, strips, heads, head_dim, dtype=torch.float32, device=x.device)
        _kernels().prepare_backward[(strips,)](
            grad,
            x,
            x if weight is None else weight,
            *what.angles(x),
            grad_x,
            grad_geometry,
            parts[0],
            parts[1],
            tokens,
            length,
            x.stride(0),
            x.stride(1),
            0.0 if what.norm is None else what.norm.eps,
            STRIP=STRIP,
            TURNED_GEOMETRY=turned,
            **what.constants(head_dim),
        )
        per_head = what.norm is not None and what.norm.scope == "head"
        over = (1, 2) if per_head else (1,)
        sums = parts.sum(dim=over).flatten(1) if what.norm is not None else parts
        of_weight = None if weight is None else sums[0].to(weight.dtype)
        of_bias = sums[1].to(what.norm.bias.dtype) if ctx.has_bias else None  # type: ignore[union-attr]
        return grad_x, of_weight, of_bias, _reduced(grad_geometry, ctx.geometry), None


def _kernels() -> Any:
    """Triton is imported by the first launch."""
    from . import triton_kernels

    return triton_kernels


def _reduced(grad: Tensor, geometry: tuple[torch.Size, torch.dtype] | None) -> Tensor | None:
    """The gradient of geometry that may have been spread over samples."""
    if geometry is None:
        return None
    shape, dtype = geometry
    return grad.sum_to_size(shape).to(dtype)


def _dense_rows(geometry: Tensor) -> Tensor:
    """Geometry whose rows ``[N, D]`` lie as they are; rows and samples may be apart."""
    inner = geometry.stride(3) == 1 and geometry.stride(2) == geometry.shape[3]
    return geometry if inner else geometry.contiguous()


def power_of_two(size: int) -> int:
    """The least that is not below ``size``."""
    return 1 << (size - 1).bit_length()
