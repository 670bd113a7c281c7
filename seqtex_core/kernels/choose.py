"""Which implementation of the fused operations runs, and why another one cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from ..attention.attend import constant_in_graphs
from ..errors import UnsupportedError
from ..frames import StreamLayout
from ..registry import Registry
from ..rope.rotate import Rope
from ..transforms import is_transformed

if TYPE_CHECKING:
    from ..modulation import NormKind, RowNorm
    from ..query_key import GeometryOrder, QKNorm

NO_TRANSFORMS = "cannot be followed by torch.func (vmap, jvp, grad) or forward-mode autograd"

logger = logging.getLogger(__name__)

Operation = Literal["qk_prep", "norm", "gate"]


@dataclass(frozen=True, kw_only=True)
class KernelInputs:
    """What an implementation must know to say whether it can run.

    Args:
        operation: norm, rotation and geometry; a LayerNorm, with or without the sum before it;
            gate and residual.
        device: where the tensors are.
        dtype: of the rows.
        width: channels of a row: of a head in ``"qk_prep"``, of the residual stream else.
        needs_grad: gradients will be asked for.
        learned_angles: those of the rotation's angles too.
        transformed: a transform of ``torch.func`` follows what is computed.
        autocast: PyTorch's operations are cast one by one, as in mixed-precision training.
    """

    operation: Operation
    device: torch.device
    dtype: torch.dtype
    width: int
    needs_grad: bool = False
    learned_angles: bool = False
    transformed: bool = False
    autocast: bool = False


class FusedKernels(Protocol):
    """The fused operations; inputs were checked by the functions that call them."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    def reason_unsupported(self, inputs: KernelInputs) -> str | None:
        """Why this implementation cannot run on ``inputs``, or ``None``."""
        ...

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
        """See ``seqtex_core.query_key.qk_prep``."""
        ...

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
        """See ``seqtex_core.modulation.modulated_norm``."""
        ...

    def affine_norm(self, x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
        """See ``seqtex_core.modulation.affine_norm``."""
        ...

    def gated_residual(self, x: Tensor, update: Tensor, gate: Tensor, rows: StreamLayout) -> Tensor:
        """See ``seqtex_core.modulation.gated_residual``."""
        ...

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
        """See ``seqtex_core.modulation.residual_norm``."""
        ...


KERNELS: Registry[FusedKernels] = Registry(
    "kernels",
    {
        "triton": "seqtex_core.kernels.triton_backend:TRITON",
        "triton_fixed": "seqtex_core.kernels.triton_backend:FIXED",
        "eager": "seqtex_core.kernels.eager:EAGER",
        "plain": "seqtex_core.kernels.plain:PLAIN",
    },
)
AUTO_ORDER = ("triton", "eager", "plain")
"""What ``auto`` tries: one kernel per operation, then PyTorch's own kernels writing in place, then
the definitions, which autograd and the compiler can look into."""

_wanted: ContextVar[str | FusedKernels] = ContextVar("seqtex kernels", default="auto")
_chosen: dict[KernelInputs, FusedKernels] = {}
_logged: set[str] = set()


@contextmanager
def using_kernels(kernels: str | FusedKernels) -> Iterator[None]:
    """Everything called inside runs on the named implementation, or fails with its reason.

    Args:
        kernels: a registered name, ``"auto"``, or an implementation of one's own.

    Raises:
        UsageError: an unknown name.
    """
    if isinstance(kernels, str) and kernels != "auto":
        kernels = KERNELS.get(kernels)
    token = _wanted.set(kernels)
    try:
        yield
    finally:
        _wanted.reset(token)


def list_kernels(device: torch.device | str | None = None) -> list[tuple[str, str | None]]:
    """Every implementation with the reason why it cannot run on ``device``, or ``None``.

    Args:
        device: CUDA if there is one, else CPU, by default.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    inputs = KernelInputs(
        operation="qk_prep", device=where, dtype=dtype, width=128, transformed=is_transformed()
    )
    return KERNELS.states(lambda kernels: kernels.reason_unsupported(inputs))


def kernels_for(
    operation: Operation,
    x: Tensor,
    width: int,
    *others: Tensor | None,
    angles: Tensor | None = None,
) -> FusedKernels:
    """The implementation for these tensors.

    In a graph that is traced it is always the plain one. Under autocast it may be any that keeps
    to what the plain one computes there: in fp32 whatever the dtypes, mixed as autocast leaves
    them (rows in bf16 out of a linear layer, gates and weights in fp32), and in the dtype of ``x``.

    Args:
        operation: which.
        x: rows.
        width: see ``KernelInputs``.
        others: further tensors, which may need gradients.
        angles: of the rotation, likewise.

    Raises:
        UnsupportedError: the one asked for cannot run on them.
    """
    if torch.compiler.is_compiling():
        return KERNELS.get(_loaded("plain"))
    learn = torch.is_grad_enabled()
    inputs = KernelInputs(
        operation=operation,
        device=x.device,
        dtype=x.dtype,
        width=width,
        needs_grad=learn and any(t is not None and t.requires_grad for t in (x, *others, angles)),
        learned_angles=learn and angles is not None and angles.requires_grad,
        transformed=is_transformed(),
        autocast=under_autocast(x.device),
    )
    wanted = _wanted.get()
    if isinstance(wanted, str):
        return _chosen.get(inputs) or _choose(inputs)
    reason = wanted.reason_unsupported(inputs)
    if reason is not None:
        raise UnsupportedError(
            f"kernels {wanted.name!r}",
            expected=f"inputs of {operation} and a machine that it supports",
            got=reason,
            remedy="Use another one, or 'auto'.",
        )
    return wanted


def under_autocast(device: torch.device) -> bool:
    """Whether operations on the device are cast one by one."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """For what needs fp32: angles, and exponents of a few hundred times a rounding.

    Args:
        device: where it is computed.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


# A traced graph imports nothing: what it takes must be there.
@constant_in_graphs
def _loaded(name: str) -> str:
    KERNELS.get(name)
    return name


def _choose(inputs: KernelInputs) -> FusedKernels:
    found = (KERNELS.get(name) for name in AUTO_ORDER)
    kernels = next(k for k in found if k.reason_unsupported(inputs) is None)
    if kernels.name not in _logged:
        _logged.add(kernels.name)
        logger.info("kernels: auto chose %s on %s", kernels.name, inputs.device)
    _chosen[inputs] = kernels
    return kernels
