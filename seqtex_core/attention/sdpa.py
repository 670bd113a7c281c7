"""PyTorch's own fused attention, with its own choice of kernel or a forced one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UsageError
from ..transforms import is_forward_mode
from .attend import AttendBase, AttentionInputs, refusal, refuse_unless_16_bit_cuda

SdpaKernel = Literal["flash", "efficient", "cudnn", "math"]
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


class SdpaAttend(AttendBase):
    """``torch.nn.functional.scaled_dot_product_attention``.

    Args:
        kernel: force one of its kernels; ``None`` lets PyTorch choose. A forced kernel that does
            not take the inputs is refused, never replaced.

    Raises:
        UsageError: unknown kernel.
    """

    def __init__(self, kernel: SdpaKernel | None = None) -> None:
        if kernel is not None and kernel not in _BACKENDS:
            raise UsageError("kernel", expected="one of " + ", ".join(_BACKENDS), got=repr(kernel))
        self.kernel = kernel
        self.name = "sdpa" if kernel is None else f"sdpa_{kernel}"

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """Limits of the forced kernel, if any."""
        on_cuda = inputs.device.type == "cuda"
        if self.kernel == "flash":
            if not on_cuda and inputs.device.type == "cpu":
                return "takes no mask" if inputs.has_mask else None
            return refuse_unless_16_bit_cuda(inputs, max_head_dim=256)
        if self.kernel == "cudnn":
            return refuse_unless_16_bit_cuda(inputs, max_head_dim=128)
        if self.kernel == "efficient" and not on_cuda:
            return f"needs a CUDA device, not {inputs.device.type}"
        if self.kernel == "efficient" and inputs.dtype == torch.float64:
            return f"needs float32 or less, not {inputs.dtype}"
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call; heads in front of tokens for it, and back.

        Raises:
            UnsupportedError: the forced kernel did not take the inputs after all.
        """
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
        try:
            with self._kernel_scope():
                out = F.scaled_dot_product_attention(
                    q.transpose(1, 2),
                    k.transpose(1, 2),
                    v.transpose(1, 2),
                    attn_mask=mask,
                    scale=scale,
                )
        except RuntimeError as error:
            if self.kernel is None or "No viable backend" not in str(error):
                raise
            taken = f"{q.dtype} {list(q.shape)} on {q.device}"
            raise refusal(self.name, f"this kernel does not take {taken}") from error
        return out.transpose(1, 2)

    def _kernel_scope(self) -> AbstractContextManager[None]:
        if self.kernel is not None:
            return sdpa_kernel(_BACKENDS[self.kernel])
        # PyTorch does not ask whether its choice has forward derivatives: only this one has
        return sdpa_kernel(SDPBackend.MATH) if is_forward_mode() else nullcontext()


SDPA = SdpaAttend()
SDPA_FLASH = SdpaAttend("flash")
SDPA_EFFICIENT = SdpaAttend("efficient")
SDPA_CUDNN = SdpaAttend("cudnn")
