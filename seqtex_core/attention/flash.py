"""FlashAttention 3 where it is installed and the card is Hopper, else FlashAttention 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .attend import (
    AttendBase,
    AttentionInputs,
    OptionalPackage,
    constant_in_graphs,
    refuse_unless_16_bit_cuda,
)

FLASH_2 = OptionalPackage(
    module="flash_attn", install="pip install flash-attn --no-build-isolation"
)
FLASH_3 = OptionalPackage(
    module="flash_attn_interface",
    install="pip install . in hopper/ of github.com/Dao-AILab/flash-attention",
)
_KERNELS: dict[str, Callable[..., Any] | None] = {}
HOPPER = (9, 0)
AMPERE = (8, 0)


class FlashAttend(AttendBase):
    """``flash_attn_func`` of version 3 or 2; inputs and outputs are ``[B, L, N, D]`` as ours."""

    name = "flash_attn"

    def package(self, inputs: AttentionInputs) -> OptionalPackage:
        """Version 3 on Hopper if present, else version 2."""
        return FLASH_3 if capability(inputs) == HOPPER and FLASH_3.is_present() else FLASH_2

    def is_slower_than_sdpa(self, inputs: AttentionInputs) -> bool:
        """Version 2 on Hopper and newer: about 370 TFLOP/s of an H100, where cuDNN has 600."""
        return capability(inputs) >= HOPPER and self.package(inputs) is FLASH_2

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CUDA, 16 bit, head dim up to 256, Ampere or newer, no mask."""
        reason = refuse_unless_16_bit_cuda(inputs, max_head_dim=256)
        if reason is None and (found := capability(inputs)) < AMPERE:
            return f"needs compute capability 8.0 or newer, not {found[0]}.{found[1]}"
        return reason

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call; channels must be contiguous."""
        flash_attn_func = _KERNELS[_load(q.device)]
        assert flash_attn_func is not None
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out = flash_attn_func(q, k, v, softmax_scale=scale, causal=False)
        result: Tensor = out[0] if isinstance(out, tuple) else out  # early v3 adds the log-sum
        return result

    def attend_packed(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        query_lengths: Sequence[int],
        key_lengths: Sequence[int],
        scale: float | None = None,
    ) -> Tensor:
        """All samples in one call of ``flash_attn_varlen_func``; see ``attend_packed``."""
        if not torch.compiler.is_compiling():
            self.require(AttentionInputs.of(q, k, v))
        kernel = _KERNELS[f"{_load(q.device)}, packed"]
        assert kernel is not None, "every version since 2 has it"
        q, k, v = (x[0] if x.stride(-1) == 1 else x[0].contiguous() for x in (q, k, v))
        out = kernel(
            q,
            k,
            v,
            cu_seqlens_q=sample_starts(tuple(query_lengths), q.device),
            cu_seqlens_k=sample_starts(tuple(key_lengths), q.device),
            max_seqlen_q=max(query_lengths),
            max_seqlen_k=max(key_lengths),
            softmax_scale=q.shape[2] ** -0.5 if scale is None else scale,
            causal=False,
        )
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result[None]


@lru_cache(maxsize=64)
def sample_starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where the samples start, and the end, int32; kept, as every layer and step asks for it."""
    with torch.inference_mode(False):
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return starts.to(device)


# An import cannot be traced by torch.compile, so a traced graph takes the name as given.
@constant_in_graphs
def _load(device: torch.device) -> str:
    package = FLASH.package(AttentionInputs(device=device))
    module = package.load()
    _KERNELS[package.module] = module.flash_attn_func
    _KERNELS[f"{package.module}, packed"] = getattr(module, "flash_attn_varlen_func", None)
    return package.module


def capability(inputs: AttentionInputs) -> tuple[int, int]:
    """Of the GPU; nothing elsewhere."""
    if inputs.device.type != "cuda":
        return (0, 0)
    return torch.cuda.get_device_capability(inputs.device)


FLASH = FlashAttend()
