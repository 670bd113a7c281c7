"""What an attention implementation is, and how it says that it cannot run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..checks import check_attention
from ..errors import MissingDependencyError, UnsupportedError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """What an implementation must know to say whether it can run; ``None`` is not known yet.

    Args:
        device: where the tensors are.
        dtype: their dtype.
        head_dim: D.
        num_heads: B times N, the number of independent problems.
        query_length: Lq.
        key_length: Lk.
        has_mask: a mask is given.
        needs_grad: gradients will be asked for.
        samples: that are packed, each over its own keys; the lengths are those of all together.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    head_dim: int | None = None
    num_heads: int | None = None
    query_length: int | None = None
    key_length: int | None = None
    has_mask: bool = False
    needs_grad: bool = False
    samples: int = 1

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, samples: int = 1
    ) -> AttentionInputs:
        """The record of actual tensors ``[B, L, N, D]``."""
        tensors = (q, k, v) if mask is None else (q, k, v, mask)
        return cls(
            device=q.device,
            dtype=q.dtype,
            head_dim=q.shape[3],
            num_heads=q.shape[0] * q.shape[2],
            query_length=q.shape[1],
            key_length=k.shape[1],
            has_mask=mask is not None,
            needs_grad=torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
            samples=samples,
        )


class Attend(Protocol):
    """Softmax attention ``[B, Lq, N, D], [B, Lk, N, D], [B, Lk, N, D] -> [B, Lq, N, D]``."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """Why this implementation cannot run on ``inputs``, or ``None``."""
        ...

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention of ``q`` over ``k`` and ``v``.

        Args:
            q: queries, ``[B, Lq, N, D]``.
            k: keys, ``[B, Lk, N, D]``.
            v: values, ``[B, Lk, N, D]``.
            mask: boolean (True = may attend) or additive, broadcastable to ``[B, N, Lq, Lk]``.
                A query that may attend to nothing gets zeros.
            scale: factor on the logits; ``1 / sqrt(D)`` by default.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OptionalPackage:
    """A package that need not be installed, imported only when something asks for it.

    Args:
        module: name to look for.
        install: what to type to get it.
        entry: module to import; ``module`` itself by default.
    """

    module: str
    install: str
    entry: str | None = None

    def is_present(self) -> bool:
        """Whether there is something to import; imports nothing."""
        return self.module in sys.modules or importlib.util.find_spec(self.module) is not None

    def load(self) -> Any:
        """The imported module.

        Raises:
            MissingDependencyError: not installed, or installed but its import fails.
        """
        if not self.is_present():
            raise MissingDependencyError(
                self.module,
                expected="an installed package",
                got="no such package",
                remedy=f"Install it: {self.install}",
            )
        try:
            return importlib.import_module(self.entry or self.module)
        except Exception as error:  # a broken binary raises ImportError, OSError, RuntimeError, ...
            raise MissingDependencyError(
                self.module,
                expected="a package that can be imported",
                got=f"{type(error).__name__}: {error}",
                remedy=f"It is installed but broken; reinstall it: {self.install}",
            ) from error

    def problem(self) -> MissingDependencyError | None:
        """The error that :meth:`load` would raise, or ``None``."""
        try:
            self.load()
        except MissingDependencyError as error:
            return error
        return None


class AttendBase(ABC):
    """Common part of the built-in implementations: checks first, then the computation.

    In a graph that ``torch.compile`` traces, the checks on what an implementation supports are
    left out: choose one for the inputs beforehand.
    """

    name: str

    def package(self, inputs: AttentionInputs) -> OptionalPackage | None:
        """The optional package that this implementation would use on ``inputs``."""
        return None

    @abstractmethod
    def refuse(self, inputs: AttentionInputs) -> str | None:
        """Why the implementation itself cannot run on ``inputs``; imports nothing."""

    def is_slower_than_sdpa(self, inputs: AttentionInputs) -> bool:
        """Whether PyTorch's own attention is known to be faster there: ``auto`` passes over it."""
        return False

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """The computation, on inputs that were checked."""

    def problem(self, inputs: AttentionInputs) -> MissingDependencyError | UnsupportedError | None:
        """The error that running on ``inputs`` would raise, or ``None``."""
        if inputs.device.type == "cuda" and not torch.cuda.is_available():
            return refusal(self.name, "needs a CUDA device, and there is none")
        package = self.package(inputs)
        if package is not None and not package.is_present():
            return package.problem()
        reason = self.refuse(inputs)
        if reason is not None:
            return refusal(self.name, reason)
        return None if package is None else package.problem()

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """Why this implementation cannot run on ``inputs``, or ``None``."""
        problem = self.problem(inputs)
        if problem is None:
            return None
        if isinstance(problem, UnsupportedError):
            return problem.got.removeprefix(_REFUSAL)
        return f"needs the package {problem.subject}, got {problem.got}. {problem.remedy}"

    def require(self, inputs: AttentionInputs) -> None:
        """Raise what :meth:`problem` returns.

        Raises:
            MissingDependencyError: its package is missing or broken.
            UnsupportedError: any other reason.
        """
        problem = self.problem(inputs)
        if problem is not None:
            raise problem

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention of ``q`` over ``k`` and ``v``; see :class:`Attend`.

        Raises:
            UsageError: tensors that do not fit together.
            MissingDependencyError: the implementation's package is missing or broken.
            UnsupportedError: it cannot run on these inputs or this machine.
        """
        check_attention(q, k, v, mask)
        if not torch.compiler.is_compiling():
            self.require(AttentionInputs.of(q, k, v, mask))
        return self.attend(q, k, v, mask, q.shape[3] ** -0.5 if scale is None else scale)


def constant_in_graphs(function: FunctionT) -> FunctionT:
    """``function``, whose result ``torch.compile`` takes as given instead of tracing it.

    What ``torch.compiler.assume_constant_result`` does, without its import of the compiler, which
    would double the time that ``import torch`` takes for everybody who compiles nothing.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


_REFUSAL = "a refusal: "


def refusal(name: str, reason: str) -> UnsupportedError:
    """The error with which the implementation ``name`` refuses."""
    return UnsupportedError(
        f"attention {name!r}",
        expected="inputs and a machine that it supports",
        got=f"{_REFUSAL}{reason}",
        remedy="Use another one, or 'auto'.",
    )


def refuse_unless_16_bit_cuda(inputs: AttentionInputs, *, max_head_dim: int) -> str | None:
    """The reason that FlashAttention-like kernels share, or ``None``."""
    if inputs.device.type != "cuda":
        return f"needs a CUDA device, not {inputs.device.type}"
    if inputs.dtype not in (None, torch.float16, torch.bfloat16):
        return f"needs float16 or bfloat16, not {inputs.dtype}"
    if inputs.has_mask:
        return "takes no mask"
    dim = inputs.head_dim
    if dim is not None and (dim > max_head_dim or dim % 8):
        return f"needs a head dim that is a multiple of 8 and at most {max_head_dim}, not {dim}"
    return None
