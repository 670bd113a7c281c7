"""FlashAttention 3 where it is installed and the card is Hopper, else FlashAttention 2."""

from __future__ import annotations

import torch
from torch import Tensor

from .attend import AttendBase, AttentionInputs, OptionalPackage, refuse_unless_16_bit_cuda

FLASH_2 = OptionalPackage(
    module="flash_attn", install="pip install flash-attn --no-build-isolation"
)
FLASH_3 = OptionalPackage(
    module="flash_attn_interface",
    install="pip install . in hopper/ of github.com/Dao-AILab/flash-attention",
)
_HOPPER = (9, 0)
_AMPERE = (8, 0)


class FlashAttend(AttendBase):
    """``flash_attn_func`` of version 3 or 2; inputs and outputs are ``[B, L, N, D]`` as ours."""

    name = "flash_attn"

    def package(self, inputs: AttentionInputs) -> OptionalPackage:
        """Version 3 on Hopper if present, else version 2."""
        return FLASH_3 if FLASH_3.is_present() and _capability(inputs) == _HOPPER else FLASH_2

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CUDA, 16 bit, head dim up to 256, Ampere or newer, no mask."""
        reason = refuse_unless_16_bit_cuda(inputs, max_head_dim=256)
        if reason is None and (found := _capability(inputs)) < _AMPERE:
            return f"needs compute capability 8.0 or newer, not {found[0]}.{found[1]}"
        return reason

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call; channels must be contiguous."""
        module = self.package(AttentionInputs(device=q.device)).load()
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out = module.flash_attn_func(q, k, v, softmax_scale=scale, causal=False)
        result: Tensor = out[0] if isinstance(out, tuple) else out  # early v3 adds the log-sum
        return result


def _capability(inputs: AttentionInputs) -> tuple[int, int]:
    if inputs.device.type != "cuda":
        return (0, 0)
    return torch.cuda.get_device_capability(inputs.device)


FLASH = FlashAttend()
