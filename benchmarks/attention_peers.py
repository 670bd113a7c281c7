"""Attention packages that the library does not wrap, as rows to compare with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seqtex_core.attention import ATTENTION, Attend, AttendBase, AttentionInputs, SdpaAttend
from seqtex_core.attention.attend import OptionalPackage, refuse_unless_16_bit_cuda
from seqtex_core.attention.flash import FLASH_2, FLASH_3

FLASH_4 = OptionalPackage(module="flash_attn.cute", install="pip install --pre flash-attn-4")
SAGE = OptionalPackage(module="sageattention", install="pip install sageattention")
APPROXIMATE = frozenset({"chunked", "sage_attention"})
"""Whose error is not that of rounding; they are accepted at ten times plain torch's error."""


class FlashVersion(AttendBase):
    """One version of FlashAttention by name; the library's own entry takes the best installed.

    Args:
        version: 2, 3 or 4.
        package: what it is in.
        capability: least compute capability.
    """

    def __init__(self, version: int, package: OptionalPackage, capability: int) -> None:
        self.name = f"flash_attn_{version}"
        self._package = package
        self._capability = capability

    def package(self, inputs: AttentionInputs) -> OptionalPackage:
        """The package of this version."""
        return self._package

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CUDA, 16 bit, and the card that it was written for."""
        reason = refuse_unless_16_bit_cuda(inputs, max_head_dim=256)
        if reason is None and torch.cuda.get_device_capability(inputs.device)[0] < self._capability:
            return f"needs compute capability {self._capability}.0 or newer"
        return reason

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call on ``[B, L, N, D]``."""
        out = self._package.load().flash_attn_func(q, k, v, softmax_scale=scale, causal=False)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result


class SageAttend(AttendBase):
    """SageAttention: queries and keys in 8 bits, so an approximation."""

    name = "sage_attention"

    def package(self, inputs: AttentionInputs) -> OptionalPackage:
        """The package sageattention."""
        return SAGE

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CUDA, 16 bit, head dim up to 128, no gradients."""
        if inputs.needs_grad:
            return "has no gradients"
        return refuse_unless_16_bit_cuda(inputs, max_head_dim=128)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call on ``[B, L, N, D]``."""
        out: Tensor = SAGE.load().sageattn(
            q, k, v, tensor_layout="NHD", is_causal=False, sm_scale=scale
        )
        return out


def implementations() -> Mapping[str, Attend]:
    """The library's implementations, then the peers, by name."""
    own = {name: ATTENTION.get(name) for name in ATTENTION}
    peers: tuple[AttendBase, ...] = (
        SdpaAttend("math"),
        FlashVersion(2, FLASH_2, 8),
        FlashVersion(3, FLASH_3, 9),
        FlashVersion(4, FLASH_4, 9),
        SageAttend(),
    )
    return own | {peer.name: peer for peer in peers if peer.name not in own}


def reason_missing(attend: Attend, inputs: AttentionInputs) -> str | None:
    """Why an implementation cannot run, its missing package first, or ``None``."""
    if isinstance(attend, AttendBase):
        package = attend.package(inputs)
        if package is not None and not _present(package):
            return f"{package.module} is not installed ({package.install})"
    return attend.reason_unsupported(inputs)


def _present(package: OptionalPackage) -> bool:
    try:
        return package.is_present()
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False
