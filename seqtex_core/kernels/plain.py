"""The fused operations one step after the other: for autograd, for the compiler, and to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from ..frames import StreamLayout
from ..rope.rotate import Rope, compute_dtype
from .choose import KernelInputs

if TYPE_CHECKING:
    from ..modulation import NormKind, RowNorm
    from ..query_key import GeometryOrder, QKNorm


class PlainKernels:
    """Everything in fp32 (fp64 for fp64 rows), rounded once at the end; runs everywhere."""

    name = "plain"

    def reason_unsupported(self, inputs: KernelInputs) -> str | None:
        """Nothing is refused."""
        del inputs
        return None

    def prepare_rows(
        self,
        x: Tensor,
        norm: QKNorm | None,
        *,
        num_heads: int,
        rope: Rope | None,
        geometry: Tensor | None,
        geometry_order: GeometryOrder,
    ) -> Tensor:
        """Norm, rotation, geometry."""
        from ..query_key import normalise, rotate_and_add

        rows = normalise(x.to(compute_dtype(x)), num_heads, norm)
        return rotate_and_add(rows, rope, geometry, geometry_order).to(x.dtype)

    def modulated_norm(
        self,
        x: Tensor,
        shift: Tensor,
        factor: Tensor,
        rows: StreamLayout,
        *,
        eps: float,
        kind: NormKind = "layer",
        out: Tensor | None = None,
    ) -> Tensor:
        """Norm, factor, shift."""
        from ..modulation import per_frame

        wide = x.to(compute_dtype(x))
        norm = functional.layer_norm if kind == "layer" else functional.rms_norm
        normed = norm(wide, wide.shape[-1:], eps=eps)
        scaled = per_frame(lambda row, s, c: row * c + s, rows, normed, shift, factor)
        return _written(scaled.type_as(x), out)

    def affine_norm(self, x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
        """LayerNorm with weights."""
        wide = x.to(compute_dtype(x))
        weight, bias = weight.to(wide.dtype), bias.to(wide.dtype)
        return functional.layer_norm(wide, wide.shape[-1:], weight, bias, eps).type_as(x)

    def gated_residual(self, x: Tensor, update: Tensor, gate: Tensor, rows: StreamLayout) -> Tensor:
        """Gate, sum."""
        from ..modulation import per_frame

        gated = per_frame(lambda u, g: u * g, rows, update, gate)
        return (x.to(compute_dtype(x)) + gated).type_as(x)

    def residual_norm(
        self,
        x: Tensor,
        update: Tensor,
        rows: StreamLayout,
        *,
        gate: Tensor | None,
        norm: RowNorm,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum, then the norm of the rounded sum."""
        if gate is None:
            residual = (x + update).type_as(x)
        else:
            residual = self.gated_residual(x, update, gate, rows)
        factor, shift, eps, kind = norm
        if factor.ndim == 3:
            normed = self.modulated_norm(residual, shift, factor, rows, eps=eps, kind=kind)
        else:
            normed = self.affine_norm(residual, factor, shift, eps=eps)
        return residual, _written(normed, out)


def _written(values: Tensor, out: Tensor | None) -> Tensor:
    return values if out is None else out.copy_(values)


PLAIN = PlainKernels()
