"""The table of implementations, the list with reasons, and the choice."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..checks import check_attention
from ..errors import UsageError
from ..registry import Registry
from .attend import Attend, AttendBase, AttentionInputs, constant_in_graphs, refusal

logger = logging.getLogger(__name__)

ATTENTION: Registry[Attend] = Registry(
    "attention",
    {
        "reference": "seqtex_core.attention.reference:REFERENCE",
        "sdpa": "seqtex_core.attention.sdpa:SDPA",
        "sdpa_flash": "seqtex_core.attention.sdpa:SDPA_FLASH",
        "sdpa_efficient": "seqtex_core.attention.sdpa:SDPA_EFFICIENT",
        "sdpa_cudnn": "seqtex_core.attention.sdpa:SDPA_CUDNN",
        "sdpa_varlen": "seqtex_core.attention.varlen:VARLEN",
        "chunked": "seqtex_core.attention.chunked:CHUNKED",
        "flash_attn": "seqtex_core.attention.flash:FLASH",
        "xformers": "seqtex_core.attention.xformers:XFORMERS",
        "flex": "seqtex_core.attention.flex:FLEX",
    },
    entry_point_group="seqtex.attention",
)

AUTO_ORDER = ("flash_attn", "sdpa", "xformers", "flex", "reference")
"""What ``auto`` tries. FlashAttention 3 is the fastest exact kernel on Hopper and FlashAttention 2
is what SDPA would run on older cards, but not on Hopper and newer ones; SDPA takes masks and every
device; the rest are reached only when both refuse. ``chunked`` is an approximation and only ever
runs by its name."""
PACKED_ORDER = ("flash_attn", "sdpa_varlen", *AUTO_ORDER[1:])
"""The same where several samples are packed: those with a kernel for all of them first."""


def list_attention(device: torch.device | str | None = None) -> list[tuple[str, str | None]]:
    """Every implementation with the reason why it cannot run on ``device``, or ``None``.

    The question is asked for plain inference in the device's usual precision (bfloat16 on CUDA,
    float32 elsewhere).

    Args:
        device: CUDA if there is one, else CPU, by default.

    Raises:
        UsageError: not the name of a device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError("device", expected="a torch device", got=repr(device)) from error
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    inputs = AttentionInputs(device=where, dtype=dtype)
    return ATTENTION.states(lambda attend: attend.reason_unsupported(inputs))


def choose_attention(name: str = "auto", inputs: AttentionInputs | None = None) -> Attend:
    """The implementation called ``name``, or for ``"auto"`` the first of ``AUTO_ORDER`` that fits.

    Args:
        name: a registered name or ``"auto"``.
        inputs: what it will run on. Without it ``"auto"`` chooses anew for each kind of input it
            is called with, and a named one is checked when it is called.

    Raises:
        UsageError: unknown name.
        MissingDependencyError: the named one's package is missing or broken.
        UnsupportedError: the named one cannot run on ``inputs``.
    """
    if name == "auto":
        return AUTO if inputs is None else AUTO.choose(inputs)
    attend = ATTENTION.get(name)
    if inputs is None:
        return attend
    if isinstance(attend, AttendBase):
        attend.require(inputs)
    elif (reason := attend.reason_unsupported(inputs)) is not None:
        raise refusal(name, reason)
    return attend


class AutoAttend:
    """Chooses for each kind of input, once, and logs every choice it has not logged before."""

    name = "auto"

    def __init__(self) -> None:
        self._chosen: dict[AttentionInputs, Attend] = {}
        self._logged: set[str] = set()

    def choose(self, inputs: AttentionInputs) -> Attend:
        """The first that can run on ``inputs``, of ``AUTO_ORDER`` or of ``PACKED_ORDER``."""
        if inputs in self._chosen:
            return self._chosen[inputs]
        for name in PACKED_ORDER if inputs.samples > 1 else AUTO_ORDER:
            attend = ATTENTION.get(name)
            slower = isinstance(attend, AttendBase) and attend.is_slower_than_sdpa(inputs)
            if not slower and attend.reason_unsupported(inputs) is None:
                break
        else:
            raise AssertionError("the reference runs everywhere")
        if name not in self._logged:
            self._logged.add(name)
            logger.info("attention: auto chose %s on %s", name, inputs.device)
        self._chosen[inputs] = attend
        return attend

    def reason_unsupported(self, inputs: AttentionInputs) -> str | None:
        """``None``: something always runs."""
        return None

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attention by the chosen implementation; see :class:`Attend`.

        Raises:
            UsageError: tensors that do not fit together.
        """
        check_attention(q, k, v, mask)
        if torch.compiler.is_compiling():
            grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
            name = _choose_while_tracing(q.device, q.dtype, q.shape[3], mask is not None, grad)
            return ATTENTION.get(name)(q, k, v, mask=mask, scale=scale)
        return self.choose(AttentionInputs.of(q, k, v, mask))(q, k, v, mask=mask, scale=scale)


AUTO = AutoAttend()


# In a traced graph the choice is a constant; sizes, which may be symbolic, take no part in it.
@constant_in_graphs
def _choose_while_tracing(
    device: torch.device, dtype: torch.dtype, head_dim: int, has_mask: bool, needs_grad: bool
) -> str:
    inputs = AttentionInputs(
        device=device, dtype=dtype, head_dim=head_dim, has_mask=has_mask, needs_grad=needs_grad
    )
    return AUTO.choose(inputs).name
