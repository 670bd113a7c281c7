"""What the attention tests share: names of implementations, random inputs."""

import torch
from torch import Tensor

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
RUNS_ON_CPU = ("sdpa", "sdpa_flash", "flex", "chunked", "reference")
OF_TORCH = ("sdpa", "sdpa_cudnn", "sdpa_efficient", "sdpa_flash", "sdpa_varlen")
ALL = ("chunked", "flash_attn", "flex", "reference", *OF_TORCH)


def make_qkv(q_len: int, k_len: int, *, heads: int = 3, dim: int = 8) -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, length, heads, dim) for length in (q_len, k_len, k_len))


def make_mask(kind: str, q_len: int, k_len: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.rand(2, 1, q_len, k_len) > 0.4
    mask[..., 0] = True
    return mask if kind == "bool" else torch.randn(1, 3, q_len, k_len).where(mask[:1], -torch.inf)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with every step in the dtype of its inputs: the yardstick for fast kernels."""
    logits = torch.einsum("bqnd,bknd->bnqk", q, k) * q.shape[3] ** -0.5
    return torch.einsum("bnqk,bknd->bqnd", logits.softmax(dim=-1), v)
