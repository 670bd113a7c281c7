"""The Triton kernels as an implementation; Triton is imported when they first run."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..frames import StreamLayout
from ..modulation import NormKind, RowNorm
from ..rope.rotate import Rope
from .choose import NO_TRANSFORMS, KernelInputs
from .triton_launch import Preparation, prepare_rows
from .triton_residual import residual_norm

if TYPE_CHECKING:
    from ..query_key import GeometryOrder, QKNorm

_MAX_WIDTH = 16384
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TritonKernels:
    """One kernel per operation.

    Args:
        interpreted: run on a CPU in Triton's interpreter, thousands of times slower: for tests.
            ``TRITON_INTERPRET=1`` must be set before Triton is imported.
        tuned: the first launch on rows of a new kind measures how many warps and rows a program
            should take, see ``tuning``; else it takes the same everywhere.
    """

    def __init__(self, *, interpreted: bool = False, tuned: bool = True) -> None:
        self.interpreted, self.tuned = interpreted, tuned

    @property
    def name(self) -> str:
        """Name in the registry."""
        return "triton" if self.tuned else "triton_fixed"

    def reason_unsupported(self, inputs: KernelInputs) -> str | None:
        """No Triton, no GPU, fp64, transforms, odd head dims, gradients of angles."""
        device = "cpu" if self.interpreted else "cuda"
        if inputs.device.type != device:
            return f"needs a {device.upper()} device, not {inputs.device.type}"
        if importlib.util.find_spec("triton") is None:
            return "needs the package triton: pip install triton"
        if inputs.transformed:
            return NO_TRANSFORMS
        if inputs.dtype not in _DTYPES:
            return f"needs float32 or less, not {inputs.dtype}"
        if inputs.operation == "qk_prep":
            if inputs.width < 2 or inputs.width & (inputs.width - 1):
                return f"needs a head dim that is a power of two, not {inputs.width}"
            return "has no gradients of the angles" if inputs.learned_angles else None
        if inputs.width > _MAX_WIDTH:
            return f"needs at most {_MAX_WIDTH} channels, not {inputs.width}"
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
        """One kernel, and one for all gradients but those of learned positions."""
        first = geometry_order == "pre_rope"
        return prepare_rows(x, geometry, Preparation(num_heads, norm, rope, first, self.tuned))

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
        """One kernel, and one for all gradients, as the others below."""
        norm = RowNorm(factor, shift, eps, kind)
        normed = residual_norm(x, rows, norm=norm, out=out, tuned=self.tuned)[1]
        assert normed is not None
        return normed

    def affine_norm(self, x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
        """One kernel."""
        normed = residual_norm(x, None, norm=RowNorm(weight, bias, eps), tuned=self.tuned)[1]
        assert normed is not None
        return normed

    def gated_residual(self, x: Tensor, update: Tensor, gate: Tensor, rows: StreamLayout) -> Tensor:
        """One kernel."""
        return residual_norm(x, rows, update=update, gate=gate, tuned=self.tuned)[0]

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
        """One kernel."""
        residual, normed = residual_norm(
            x, rows, update=update, gate=gate, norm=norm, out=out, tuned=self.tuned
        )
        assert normed is not None
        return residual, normed


TRITON = TritonKernels()
FIXED = TritonKernels(tuned=False)
