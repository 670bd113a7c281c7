"""Memory-efficient attention of xFormers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .attend import (
    AttendBase,
    AttentionInputs,
    OptionalPackage,
    constant_in_graphs,
    refusal,
    refuse_unless_16_bit_cuda,
)

XFORMERS_PACKAGE = OptionalPackage(
    module="xformers", entry="xformers.ops", install="pip install 'xformers>=0.0.35,<0.0.36'"
)

_KERNELS: dict[str, Callable[..., Any]] = {}


class XformersAttend(AttendBase):
    """``memory_efficient_attention``; its B, M, H, K are our B, L, N, D.

    Masks are refused: its bias must be padded to multiples of eight, which SDPA does not ask for.
    """

    name = "xformers"

    def package(self, inputs: AttentionInputs) -> OptionalPackage:
        """The package with that name."""
        return XFORMERS_PACKAGE

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CUDA, 16 bit, head dim up to 256, no mask."""
        return refuse_unless_16_bit_cuda(inputs, max_head_dim=256)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call; channels must be contiguous.

        Raises:
            UnsupportedError: none of its kernels takes the inputs.
        """
        run = _KERNELS[_load()]
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        try:
            out: Tensor = run(q, k, v, scale=scale)
        except NotImplementedError as error:
            taken = f"{q.dtype} {list(q.shape)} on {q.device}"
            raise refusal(self.name, f"no kernel of it takes {taken}") from error
        return out


# An import cannot be traced by torch.compile, so a traced graph takes the name as given.
@constant_in_graphs
def _load() -> str:
    _KERNELS["xformers"] = XFORMERS_PACKAGE.load().memory_efficient_attention
    return "xformers"


XFORMERS = XformersAttend()
