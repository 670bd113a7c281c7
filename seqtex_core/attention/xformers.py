"""Memory-efficient attention of xFormers."""

from __future__ import annotations

from torch import Tensor

from .attend import AttendBase, AttentionInputs, OptionalPackage, refuse_unless_16_bit_cuda

XFORMERS_PACKAGE = OptionalPackage(module="xformers", install="pip install 'seqtex[cuda]'")


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
        """One call; channels must be contiguous."""
        ops = XFORMERS_PACKAGE.load(".ops")
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out: Tensor = ops.memory_efficient_attention(q, k, v, scale=scale)
        return out


XFORMERS = XformersAttend()
