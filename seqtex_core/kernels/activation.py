"""A linear layer with GELU behind it: in the product's epilogue, or in place while in the cache."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..joint_projection import is_plain
from ..rope.rotate import compute_dtype
from ..transforms import is_transformed
from .choose import under_autocast
from .eager import rows_of_piece

Approximate = Literal["none", "tanh"]

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBE = 0.044715 * _SLOPE


def linear_gelu(x: Tensor, layer: nn.Linear, *, approximate: Approximate = "tanh") -> Tensor:
    """``gelu(layer(x))``, ``[..., out_features]``.

    PyTorch has products that apply the tanh form to their sums before they are rounded and stored,
    on a GPU and for narrow rows on a CPU, so the wide hidden rows are moved once instead of three
    times. Whether a device's kernel is that form is tried out on a few numbers, once.

    Args:
        x: ``[..., in_features]``.
        layer: the layer; hooks and unmerged adapters are respected.
        approximate: form of GELU.
    """
    tensors = (x, *layer.parameters())
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    hooked = layer._forward_pre_hooks or layer._forward_hooks  # they may keep what they see
    followed = torch.compiler.is_compiling() or is_transformed() or under_autocast(x.device)
    if followed or learns or hooked:
        return functional.gelu(layer(x), approximate=approximate)
    if approximate == "none":
        exact: Tensor = torch.ops.aten.gelu_(layer(x))
        return exact
    if is_plain(layer) and layer.bias is not None and _fuses_tanh(x.device, x.dtype):
        return _fused(x, layer.weight, layer.bias)
    if is_plain(layer) and x.device.type == "cpu":  # the bias would be a pass of its own
        return gelu_in_place(functional.linear(x, layer.weight), layer.bias)
    return gelu_in_place(layer(x))


def gelu_in_place(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The tanh form of GELU of ``x + bias``, written over ``x``; without gradients.

    On a CPU, as ``x * sigmoid(2 u)``, which is the same as ``x / 2 * (1 + tanh(u))``: PyTorch's
    sigmoid takes a fraction of the time of its tanh there. Computed in fp32 or fp64, rounded once.

    Args:
        x: contiguous, ``[..., D]``.
        bias: ``[D]``, or ``None``.
    """
    if x.device.type != "cpu":
        whole: Tensor = x if bias is None else x.add_(bias)
        torch.ops.aten.gelu_(whole, approximate="tanh")
        return whole
    rows = x.view(-1, x.shape[-1])
    wide = compute_dtype(x)
    step = rows_of_piece(x.shape[-1])
    slope = torch.tensor(_SLOPE, dtype=wide)
    scratch = torch.empty(min(step, len(rows)), x.shape[-1], dtype=wide)
    for piece in rows.split(step):
        values, factor = piece.to(wide), scratch[: len(piece)]
        if bias is not None:
            values.add_(bias)
        torch.addcmul(slope, values, values, value=_CUBE, out=factor)
        factor.mul_(values).sigmoid_()
        torch.mul(values, factor, out=piece)
    return x


def _fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product with the tanh form in its epilogue."""
    if x.device.type == "cpu":
        narrow: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
        return narrow
    rows = x.flatten(0, -2)
    hidden: Tensor = torch.ops.aten._addmm_activation(bias, rows, weight.t(), use_gelu=True)
    return hidden.view(*x.shape[:-1], len(weight))


@cache
def _fuses_tanh(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused product is there, is the faster one, and applies the tanh form."""
    if device.type == "meta":  # where only counts are asked for, as of a GPU
        return True
    if not (_fast_on_cpu(dtype) if device.type == "cpu" else device.type == "cuda"):
        return False
    if dtype == torch.float64:
        return False
    points = torch.linspace(-4, 4, 256, device=device, dtype=dtype)[:, None]
    one, zero = torch.ones(1, 8, device=device, dtype=dtype), torch.zeros(8, device=device)
    rows = torch.cat([points, torch.zeros_like(points).expand(-1, 7)], dim=1)
    weight = torch.cat([one, one.new_zeros(7, 8)]).t().contiguous()
    try:
        fused = _fused(rows, weight, zero.to(dtype))
    except (RuntimeError, AttributeError):
        return False
    exact = functional.gelu(points.double(), approximate="tanh").expand(-1, 8)
    error = (fused.double() - exact).abs() / (1 + exact.abs())
    return bool(error.max() <= max(torch.finfo(dtype).eps, 2e-5))


def _fast_on_cpu(dtype: torch.dtype) -> bool:
    """Whether oneDNN's product is what PyTorch takes on this CPU: for narrow rows it knows."""
    asked = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    question = asked.get(str(dtype).removeprefix("torch."))
    answer = None if question is None else getattr(torch.ops.mkldnn, question, None)
    return torch.backends.mkldnn.is_available() and answer is not None and bool(answer())
