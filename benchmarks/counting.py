"""Kernel launches, traffic and FLOP of eager code, counted operator by operator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from seqtex_core.attention import AttentionInputs
from seqtex_core.frames import StreamLayout
from seqtex_core.kernels import KernelInputs
from seqtex_core.modulation import NormKind, RowNorm
from seqtex_core.query_key import GeometryOrder, QKNorm
from seqtex_core.rope import Rope

Kind = Literal["matrix", "attention", "pointwise"]
WrittenT = TypeVar("WrittenT", Tensor, list[Tensor])
_MATRIX = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_addmm_activation")
_NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


@dataclass
class Tally:
    """What was counted.

    Args:
        launches: kernels by kind.
        bytes: traffic by kind: every operator's inputs and outputs once, expanded tensors at
            their stored size.
        operators: pointwise traffic by operator.
        flop: of matrix products and attention, by operator, from FlopCounterMode.
    """

    launches: Counter[Kind] = field(default_factory=Counter)
    bytes: Counter[Kind] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    flop: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_flop(self) -> int:
        """FLOP of all operators."""
        return sum(self.flop.values())

    @property
    def total_launches(self) -> int:
        """Launches of all kinds."""
        return sum(self.launches.values())

    def minus(self, other: Tally) -> Tally:
        """What this has more than ``other``: one layer of two models that differ by it."""
        names = {*self.flop, *other.flop}
        flop = {n: self.flop.get(n, 0) - other.flop.get(n, 0) for n in names}
        return Tally(
            launches=_difference(self.launches, other.launches),
            bytes=_difference(self.bytes, other.bytes),
            operators=_difference(self.operators, other.operators),
            flop={name: value for name, value in flop.items() if value},
        )


def count(call: Callable[[], object], *, fused_rms_norm: bool = True) -> Tally:
    """Counts of one call, without gradients; on the meta device nothing is computed.

    Views and empty allocations cost nothing. Every other operator is one kernel, which is what
    eager PyTorch does on CUDA.

    Args:
        call: what to count. Caches that it fills should be full already.
        fused_rms_norm: ``rms_norm`` is one kernel, as on CUDA since torch 2.8. Otherwise the
            operators that it is made of on the CPU and on the meta device are counted.
    """
    flop = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._addmm_activation: _fused_gelu_flop}
    )
    operators = _Operators()
    _counting.append(operators)
    try:
        with torch.no_grad(), flop, operators, _FusedNorm(operators, fused_rms_norm):
            call()
    finally:
        _counting.remove(operators)
    tally = operators.tally
    tally.flop = {str(op): int(n) for op, n in flop.get_flop_counts().get("Global", {}).items()}
    return tally


def traffic(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, expanded dimensions counted once."""
    return sum(
        math.prod(n for n, stride in zip(t.shape, t.stride(), strict=True) if stride) * t.itemsize
        for t in tensors
    )


class CountedAttend:
    """Attention as one fused kernel that reads ``[B, L, N, D]`` in place, for the meta device."""

    name = "counted"

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """Only the meta device."""
        return None if inputs.device.type == "meta" else "counts only; use the meta device"

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """An empty ``[B, Lq, N, D]``; see ``Attend``."""
        assert mask is None
        rows = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention.default(
            *rows, scale=scale
        )[0]
        return out.transpose(1, 2)


class CountedKernels:
    """The fused operations as one kernel each that reads rows wherever they lie; meta device only.

    What ``triton`` launches: it cannot run on the meta device itself.
    """

    name = "counted"

    def reason_unsupported(self, inputs: KernelInputs) -> str | None:
        """Only the meta device."""
        return None if inputs.device.type == "meta" else "counts only; use the meta device"

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
        """Rows, table and geometry read, rows written."""
        del geometry_order
        table = () if rope is None else (rope.cos, rope.sin)
        weights = () if norm is None else (norm.weight, norm.bias)
        out = x.new_empty(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)
        return _one_kernel("fused qk_prep", out, x, geometry, *table, *weights)

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
        """Rows read and written."""
        del rows, eps, kind
        return _one_kernel(
            "fused norm", x.new_empty(x.shape) if out is None else out, x, shift, factor
        )

    def affine_norm(self, x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
        """Rows read and written."""
        del eps
        return _one_kernel("fused norm", x.new_empty(x.shape), x, weight, bias)

    def gated_residual(self, x: Tensor, update: Tensor, gate: Tensor, rows: StreamLayout) -> Tensor:
        """Stream and update read, stream written."""
        del rows
        return _one_kernel("fused gate", x.new_empty(x.shape), x, update, gate)

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
        """Stream and update read, stream and normalised rows written."""
        del rows
        residual, normed = x.new_empty(x.shape), x.new_empty(x.shape) if out is None else out
        read = (x, update, gate, norm.factor, norm.shift)
        _one_kernel("fused gate and norm", [residual, normed], *read)
        return residual, normed


_counting: list[_Operators] = []


def _one_kernel(name: str, out: WrittenT, *read: Tensor | None) -> WrittenT:
    for operators in _counting:
        operators.add(name, [t for t in read if t is not None], tree_leaves(out))
    return out


class _Operators(TorchDispatchMode):
    """Tallies every operator that reaches a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = Tally()
        self.paused = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if self.paused or name in _NO_KERNEL or _is_view(func):
            return result
        inputs = {name: value for name, value in (kwargs or {}).items() if name != "out"}
        read = [t for t in tree_leaves((args, inputs)) if isinstance(t, Tensor)]
        written = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not read and not written:
            return result  # asks about dtypes
        if _returns_storage_of(written, read) and not func._schema.is_mutable:
            return result  # a view after all, such as a reshape or a cast to the same dtype
        self.add(name, read, written)
        return result

    def add(self, name: str, read: list[Tensor], written: list[Tensor]) -> None:
        """Count one kernel."""
        kind = _kind(name)
        moved = traffic(read) + traffic(written)
        self.tally.launches[kind] += 1
        self.tally.bytes[kind] += moved
        if kind == "pointwise":
            self.tally.operators[name] += moved


class _FusedNorm(TorchFunctionMode):
    """Counts ``rms_norm`` as the one kernel that it is on CUDA."""

    def __init__(self, operators: _Operators, enabled: bool) -> None:
        super().__init__()
        self._operators = operators
        self._enabled = enabled

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.rms_norm, functional.rms_norm) or not self._enabled:
            return func(*args, **kwargs)
        self._operators.paused = True
        try:
            result = func(*args, **kwargs)
        finally:
            self._operators.paused = False
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._operators.add("_fused_rms_norm", read, [result])
        return result


def _fused_gelu_flop(
    bias: Any, rows: tuple[int, int], weight: tuple[int, int], *args: Any, **kwargs: Any
) -> int:
    """FLOP of a product with GELU in its epilogue, from shapes."""
    return 2 * rows[0] * rows[1] * weight[1]


def _kind(name: str) -> Kind:
    if name in _MATRIX:
        return "matrix"
    return "attention" if "attention" in name else "pointwise"


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    aliases = [r.alias_info for r in returns]
    return bool(aliases) and all(a is not None and not a.is_write for a in aliases)


def _returns_storage_of(written: list[Tensor], read: list[Tensor]) -> bool:
    held = {t.untyped_storage()._cdata for t in read}
    return bool(written) and all(t.untyped_storage()._cdata in held for t in written)


def _difference(a: Counter[Any], b: Counter[Any]) -> Counter[Any]:
    return Counter({name: a[name] - b[name] for name in a | b if a[name] != b[name]})
