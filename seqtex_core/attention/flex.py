"""PyTorch's FlexAttention: compiled on CUDA, small shapes without gradients on CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from .attend import AttendBase, AttentionInputs, OptionalPackage

MAX_CPU_SCORES = 2**24
"""On CPU all scores are held in memory: 64 MiB of fp32."""
TRITON = OptionalPackage(module="triton", install="pip install triton")


class FlexAttend(AttendBase):
    """``torch.nn.attention.flex_attention``; masks become score modifications."""

    name = "flex"

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CPU: no gradients, few scores. CUDA: Triton, head dim of 16 or more, not fp64.

        In torch 2.6 the head dim is a power of two.
        """
        if torch.__version__ < "2.7" and (inputs.head_dim or 1).bit_count() > 1:
            return f"needs a head dim that is a power of two in torch 2.6, not {inputs.head_dim}"
        if inputs.device.type == "cpu":
            return _refuse_cpu(inputs)
        if inputs.device.type != "cuda":
            return f"needs a CPU or CUDA device, not {inputs.device.type}"
        if inputs.dtype == torch.float64:
            return f"needs float32 or less on CUDA, not {inputs.dtype}"
        if inputs.head_dim is not None and inputs.head_dim < 16:
            return f"needs a head dim of at least 16 on CUDA, not {inputs.head_dim}"
        return None

    def package(self, inputs: AttentionInputs) -> OptionalPackage | None:
        """Triton on CUDA, where the kernel is compiled."""
        return TRITON if inputs.device.type == "cuda" else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """One call; heads in front of tokens for it, and back."""
        if q.device.type == "cpu":  # it refuses leaves even where gradients are switched off
            q, k, v = q.detach(), k.detach(), v.detach()
        run = _flex(compiled=q.is_cuda and not torch.compiler.is_compiling())
        score_mod = None if mask is None else _score_mod(mask, q, k)
        out: Tensor = run(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            score_mod=score_mod,
            scale=scale,
        )
        return out.transpose(1, 2)


def _refuse_cpu(inputs: AttentionInputs) -> str | None:
    if inputs.needs_grad:
        return "has no gradients on CPU"
    sizes = (inputs.num_heads, inputs.query_length, inputs.key_length)
    scores = 1
    for size in sizes:
        scores *= 1 if size is None else size
    if scores > MAX_CPU_SCORES:
        return f"holds all scores in memory on CPU: {scores} of them, at most {MAX_CPU_SCORES}"
    return None


def _score_mod(mask: Tensor, q: Tensor, k: Tensor) -> Callable[..., Tensor]:
    full = mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])

    def add(score: Tensor, b: Tensor, n: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + full[b, n, query, key]

    def select(score: Tensor, b: Tensor, n: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(full[b, n, query, key], score, -torch.inf)

    return select if mask.dtype == torch.bool else add


@cache
def _flex(*, compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    run: Any = torch.compile(flex_attention) if compiled else flex_attention
    return cast(Callable[..., Any], run)


FLEX = FlexAttend()
