"""Launching the Triton kernels of queries and keys: shapes, strides, gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rope.rotate import Rope
from .choose import without_autocast
from .tuning import Arguments, Launch, backward_configs, forward_configs

if TYPE_CHECKING:
    from ..query_key import QKNorm


class Preparation(NamedTuple):
    """What :func:`prepare_rows` does besides its tensors.

    Attributes:
        num_heads: N.
        norm: its options; the weights are passed on their own.
        rope: table, or ``None``.
        geometry_first: geometry is added before the rotation.
        tuned: what a program takes may be chosen by measuring.
    """

    num_heads: int
    norm: QKNorm | None
    rope: Rope | None
    geometry_first: bool
    tuned: bool

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
        }


def prepare_rows(x: Tensor, geometry: Tensor | None, what: Preparation) -> Tensor:
    """``rope(norm(x)) + geometry``, ``[B, L, N, D]``, with gradients; see ``qk_prep``."""
    norm = what.norm
    weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
    rows = _Prepare.apply(x, weight, bias, geometry, what)  # type: ignore[no-untyped-call]
    return cast(Tensor, rows)


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
        arguments = (
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
        )
        tokens = x.shape[0] * x.shape[1]
        flags = {
            "BIAS": bias is not None,
            "GEOMETRY": geometry is not None,
            "GEOMETRY_FIRST": what.geometry_first,
        }
        launch = Launch(
            kernel=_kernels().prepare_forward,
            constants=what.constants(heads[1]) | flags,
            configs=forward_configs(power_of_two(heads[0]) * heads[1]),
            inputs=(x, weight, bias, geometry),
            rows=tokens,
            programs=lambda strip: tokens,
            tuned=what.tuned,
        )
        launch.run(launch.config(lambda strip: arguments), arguments)
        ctx.save_for_backward(x, weight)
        ctx.what, ctx.bias_dtype = what, None if bias is None else bias.dtype
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
        turned = ctx.geometry is not None and what.geometry_first
        summed = ctx.needs_input_grad[1:3]
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_geometry = torch.empty_like(grad, dtype=ctx.geometry[1]) if turned else grad

        def sums(strip: int) -> list[Tensor]:
            shape = (-(-tokens // strip), heads, head_dim)
            return [float_rows(*shape, device=x.device) if some else grad_x for some in summed]

        def arguments(of_strips: list[Tensor]) -> Arguments:
            return (
                grad,
                x,
                x if weight is None else weight,
                *what.angles(x),
                grad_x,
                grad_geometry,
                *of_strips,
                tokens,
                length,
                x.stride(0),
                x.stride(1),
                0.0 if what.norm is None else what.norm.eps,
            )

        flags = {"TURNED_GEOMETRY": turned, "WEIGHT_SUM": summed[0], "BIAS_SUM": summed[1]}
        launch = Launch(
            kernel=_kernels().prepare_backward,
            constants=what.constants(head_dim) | flags,
            configs=backward_configs(power_of_two(heads) * head_dim, sum(summed)),
            inputs=(x, grad, weight, grad_geometry),
            rows=tokens,
            programs=lambda strip: -(-tokens // strip),
            tuned=what.tuned,
        )
        config = launch.config(lambda strip: arguments(sums(strip)))
        of_strips = sums(config.strip)
        launch.run(config, arguments(of_strips))
        over = (0, 1) if what.norm is not None and what.norm.scope == "head" else 0
        dtypes = (None if weight is None else weight.dtype, ctx.bias_dtype)
        with without_autocast(x.device):
            of_norm = [
                part.sum(over).flatten().to(dtype) if some else None
                for part, dtype, some in zip(of_strips, dtypes, summed, strict=True)
            ]
            return grad_x, *of_norm, _reduced(grad_geometry, ctx.geometry), None


def _kernels() -> Any:
    """Triton is imported by the first launch."""
    from . import triton_kernels

    return triton_kernels


def _reduced(grad: Tensor, geometry: tuple[torch.Size, torch.dtype] | None) -> Tensor | None:
    """The gradient of geometry that may have been spread over samples."""
    if geometry is None:
        return None
    shape, dtype = geometry
    if shape[0] == grad.shape[0]:
        return grad.to(dtype)
    return grad.sum(0, keepdim=True, dtype=dtype)


def _dense_rows(geometry: Tensor) -> Tensor:
    """Geometry whose rows ``[N, D]`` lie as they are; rows and samples may be apart."""
    inner = geometry.stride(3) == 1 and geometry.stride(2) == geometry.shape[3]
    return geometry if inner else geometry.contiguous()


def float_rows(*shape: int, device: torch.device) -> Tensor:
    """Room for fp32 values, whatever torch makes by default."""
    return torch.empty(shape, dtype=torch.float32, device=device)


def power_of_two(size: int) -> int:
    """The least that is not below ``size``."""
    return 1 << (size - 1).bit_length()
