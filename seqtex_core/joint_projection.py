"""Linear layers that read the same rows as one product: queries, keys and values.

Nothing is stored beside the layers. :func:`join_layers` lets their weights lie one after the other
in memory, each a view of its part, so that state dicts, names and sizes stay as they are; where
they lie so, :func:`project` takes them as one matrix. Whatever gives a layer a weight of its own
again (moving, casting, copying, unmerging an adapter) takes the product apart again, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .kernels.choose import under_autocast
from .lora import LoRALinear
from .transforms import is_transformed


def project(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """What every layer makes of ``x``, ``[..., out_features]`` each.

    One product where the layers' weights lie one after the other; its parts are views of one
    result, whose rows are apart. In training, in a traced graph, inside of transforms and under
    autocast every layer is called by itself, as are layers with hooks or unmerged adapters, and all
    on a CPU: it gains nothing by larger products, and its attention reads rows that are apart 5%
    more slowly.

    Args:
        x: rows, ``[..., in_features]``.
        layers: linear layers, or what stands in for them.
    """
    joint = _joint(x, layers)
    if joint is None:
        return tuple(layer(x) for layer in layers)
    weight, bias, sizes = joint
    parts: tuple[Tensor, ...] = functional.linear(x, weight, bias).split(sizes, dim=-1)
    return parts


def join_layers(layers: Sequence[nn.Module]) -> bool:
    """Let the weights of linear layers lie one after the other, biases too; whether they do.

    The memory of their former places is freed once nobody else holds it. Layers that differ in
    width, dtype or device, in whether they have a bias, or that are not plain (see
    :func:`is_plain`) are left as they are.

    Args:
        layers: of one input.
    """
    if not all(is_plain(layer) for layer in layers):
        return False
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    biases = [layer.bias for layer in layers if isinstance(layer, nn.Linear)]
    kinds = {(w.shape[1], w.dtype, w.device) for w in weights}
    known = [b for b in biases if b is not None]
    whole = len({id(w) for w in weights}) == len(layers)
    if len(kinds) > 1 or not whole or len(known) not in (0, len(layers)):
        return False
    for parts in (weights, known):
        if parts and _adjacent(parts) is None:
            joint = torch.cat([part.data for part in parts])
            for part, own in zip(parts, joint.split([len(p) for p in parts]), strict=True):
                part.data = own
    return True


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is its weight and bias and nothing else: no hook, no unmerged adapter."""
    merged = isinstance(layer, LoRALinear) and layer.is_merged
    hooked = layer._forward_pre_hooks or layer._forward_hooks  # they may keep what they see
    return (merged or type(layer) is nn.Linear) and not hooked


def _joint(
    x: Tensor, layers: Sequence[nn.Module]
) -> tuple[Tensor, Tensor | None, list[int]] | None:
    """Weight, bias and parts of the joint product, or ``None`` where there is none."""
    if torch.compiler.is_compiling() or is_transformed() or not _gains(x.device):
        return None
    if not all(is_plain(layer) for layer in layers):
        return None
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weights = [layer.weight for layer in linear]
    biases = [layer.bias for layer in linear if layer.bias is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights, *biases)):
        return None
    if under_autocast(x.device):
        return None
    weight = _adjacent(weights)
    bias = _adjacent(biases) if biases else None
    if weight is None or (biases and bias is None) or len(biases) not in (0, len(linear)):
        return None
    return weight, bias, [len(w) for w in weights]


def _gains(device: torch.device) -> bool:
    """Whether one product is faster there; tests take it on a CPU too."""
    return device.type != "cpu"


def _adjacent(parts: Sequence[Tensor]) -> Tensor | None:
    """Tensors that lie one after the other as one, ``[sum of rows, ...]``; ``None`` if not."""
    first = parts[0].detach()
    storage, end = first.untyped_storage()._cdata, first.storage_offset()
    for part in parts:
        here = part.untyped_storage()._cdata == storage and part.storage_offset() == end
        if not here or not part.is_contiguous() or part.dtype != first.dtype:
            return None
        end += part.numel()
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
