"""PyTorch's own attention of packed samples: FlashAttention in one call, without a package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .attend import AttendBase, AttentionInputs, constant_in_graphs, refuse_unless_16_bit_cuda
from .flash import AMPERE, HOPPER, capability, sample_starts

LEAST_TORCH = "2.11"
"""The ``varlen_attn`` of 2.10 takes no scale."""
_MAX_TRAINED_HEAD_DIM = 192
_FLASH_2_FLOP_S, _CUDNN_FLOP_S = 370e12, 600e12
_CALL_S = 20e-6
"""What one more SDPA call costs the host: an assumption."""
_KERNELS: dict[str, Callable[..., Tensor]] = {}


class VarlenAttend(AttendBase):
    """``torch.nn.attention.varlen.varlen_attn``, which a batch of equal lengths may take as well.

    Source: its kernel is FlashAttention 2, compiled into PyTorch.
    """

    name = "sdpa_varlen"

    def refuse(self, inputs: AttentionInputs) -> str | None:
        """CUDA, 16 bit, Ampere or newer, head dim up to 256 (192 with gradients), no mask."""
        reason = refuse_unless_16_bit_cuda(inputs, max_head_dim=256)
        if reason is not None:
            return reason
        if torch.__version__ < LEAST_TORCH:
            return f"needs PyTorch {LEAST_TORCH} or newer, not {torch.__version__}"
        if not torch.backends.cuda.is_flash_attention_available():
            return "needs a PyTorch that was built with FlashAttention"
        if (found := capability(inputs)) < AMPERE:
            return f"needs compute capability 8.0 or newer, not {found[0]}.{found[1]}"
        if inputs.needs_grad and (inputs.head_dim or 0) > _MAX_TRAINED_HEAD_DIM:
            dim = inputs.head_dim
            return f"needs a head dim of at most {_MAX_TRAINED_HEAD_DIM} for gradients, not {dim}"
        return None

    def is_slower_than_sdpa(self, inputs: AttentionInputs) -> bool:
        """On Hopper and newer, where cuDNN gains more on every long sample than its call costs."""
        sizes = (inputs.query_length, inputs.key_length, inputs.num_heads, inputs.head_dim)
        queries, keys, heads, dim = (size or 0 for size in sizes)
        flop = 4 * (queries / inputs.samples) * (keys / inputs.samples) * heads * dim
        lost = flop / _FLASH_2_FLOP_S - flop / _CUDNN_FLOP_S
        return capability(inputs) >= HOPPER and lost > _CALL_S

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """The batch as packed samples of equal lengths."""
        queries, keys = ([x.shape[1]] * x.shape[0] for x in (q, k))
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        out = _attended(q, k, v, queries, keys, scale)
        return out.view(len(queries), queries[0], *out.shape[1:])

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
        """All samples in one call; see ``attend_packed``."""
        if not torch.compiler.is_compiling():
            self.require(AttentionInputs.of(q, k, v, samples=len(query_lengths)))
        scale = q.shape[3] ** -0.5 if scale is None else scale
        return _attended(q[0], k[0], v[0], query_lengths, key_lengths, scale)[None]


def _attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
) -> Tensor:
    """Rows ``[sum L, N, D]``, whose channels must be contiguous."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _KERNELS[_load()](
        q,
        k,
        v,
        sample_starts(tuple(query_lengths), q.device),
        sample_starts(tuple(key_lengths), q.device),
        max(query_lengths),
        max(key_lengths),
        scale=scale,
    )


# It imports the compiler, so it waits until somebody attends; a traced graph imports nothing.
@constant_in_graphs
def _load() -> str:
    module = importlib.import_module("torch.nn.attention.varlen")
    _KERNELS["varlen_attn"] = module.varlen_attn
    return "varlen_attn"


VARLEN = VarlenAttend()
