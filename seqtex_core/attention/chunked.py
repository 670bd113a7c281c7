"""Attention in chunks of queries on a CPU: product, softmax, product, each a whole kernel.

An approximation for 16-bit inputs, which ``auto`` never takes: logits and weights are rounded to
the dtype of the inputs, so that both products run as fast as the CPU's 16-bit products do. That
doubles the error of fused attention; where PyTorch's fused kernel computes 16-bit inputs in fp32
(CPUs without matrix units) it is up to 1.8 times as fast, and where there are such units it is not
faster. Measure it with ``python -m benchmarks attention`` before using it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attend import AttendBase, AttentionInputs

SCORES = 1 << 21
"""Logits of a chunk: four megabytes in 16 bits, which weights overwrite while they are cached."""


class ChunkedAttend(AttendBase):
    """One head and some queries at a time; logits in the dtype of the inputs."""

    name = "chunked"

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """Masks, gradients and other devices."""
        if inputs.device.type != "cpu":
            return f"needs a CPU, not {inputs.device.type}"
        if inputs.has_mask:
            return "takes no mask"
        return "has no gradients" if inputs.needs_grad else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Two products and a softmax per head and chunk, all in one place."""
        batch, length, heads, _ = q.shape
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        nothing = q.new_zeros(())
        step = max(1, min(length, max(64, SCORES // k.shape[1])))
        scores = q.new_empty(step, k.shape[1])
        for sample in range(batch):
            for head in range(heads):
                keys = k[sample, :, head].t().contiguous()  # else every product would copy them
                values = v[sample, :, head].contiguous()
                for start in range(0, length, step):
                    rows = q[sample, start : start + step, head]
                    own = scores[: len(rows)]
                    torch.addmm(nothing, rows, keys, beta=0, alpha=scale, out=own)
                    torch.softmax(own, dim=-1, out=own)
                    torch.mm(own, values, out=out[sample, start : start + step, head])
        return out


CHUNKED = ChunkedAttend()
