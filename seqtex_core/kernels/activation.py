"""A linear layer with GELU behind it: in the product's epilogue on a GPU, in place on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..lora import LoRALinear
from .choose import under_autocast

Approximate = Literal["none", "tanh"]


def linear_gelu(x: Tensor, layer: nn.Linear, *, approximate: Approximate = "tanh") -> Tensor:
    """``gelu(layer(x))``, ``[..., out_features]``.

    On a GPU, PyTorch has a product that applies the tanh form to its sums before they are rounded
    and stored, so the wide hidden rows are moved once instead of three times. Whether a device's
    kernel is that form is tried out on a few numbers, once.

    Args:
        x: ``[..., in_features]``.
        layer: the layer; hooks and unmerged adapters are respected.
        approximate: form of GELU.
    """
    tensors = (x, *layer.parameters())
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    hooked = layer._forward_pre_hooks or layer._forward_hooks  # they may keep what they see
    if torch.compiler.is_compiling() or learns or hooked or under_autocast(x.device):
        return functional.gelu(layer(x), approximate=approximate)
    if approximate == "tanh" and _is_plain(layer) and _fuses_tanh(x.device, x.dtype):
        rows = x.flatten(0, -2)
        hidden: Tensor = torch.ops.aten._addmm_activation(
            layer.bias, rows, layer.weight.t(), use_gelu=True
        )
        return hidden.view(*x.shape[:-1], layer.out_features)
    in_place: Tensor = torch.ops.aten.gelu_(layer(x), approximate=approximate)
    return in_place


def _is_plain(layer: nn.Linear) -> bool:
    """Whether the layer is its weight and bias and nothing else."""
    merged = isinstance(layer, LoRALinear) and layer.is_merged
    return (merged or type(layer) is nn.Linear) and layer.bias is not None


@cache
def _fuses_tanh(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused product is there, and applies the tanh form."""
    if device.type == "meta":  # where only counts are asked for, as of a GPU
        return True
    if device.type != "cuda" or dtype == torch.float64:
        return False
    points = torch.linspace(-4, 4, 256, device=device, dtype=dtype)[:, None]
    one, zero = torch.ones(1, 8, device=device, dtype=dtype), torch.zeros(8, device=device)
    rows = torch.cat([points, torch.zeros_like(points).expand(-1, 7)], dim=1)
    weight = torch.cat([one, one.new_zeros(7, 8)])
    try:
        fused = torch.ops.aten._addmm_activation(zero.to(dtype), rows, weight, use_gelu=True)
    except RuntimeError:
        return False
    exact = functional.gelu(points.double(), approximate="tanh").expand(-1, 8)
    error = (fused.double() - exact).abs() / (1 + exact.abs())
    return bool(error.max() <= max(torch.finfo(dtype).eps, 2e-5))
