"""Linear layers in 8-bit floating point: an approximation, off unless asked for.

Weights are rounded once, activations in every call, both to e4m3 with one scale per row; sums are
kept wide. Each input row and each output channel thus uses the whole range of the format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import UnsupportedError, UsageError
from .lora import LoRALinear
from .transformer import SeqTexTransformer

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max
_MULTIPLE = 16
_CAPABILITY = (8, 9)


class Fp8Linear(nn.Module):
    """A linear layer with weights in e4m3; for inference.

    Args:
        base: the layer; its widths are multiples of 16.

    Raises:
        UsageError: other widths.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        if not fits(base):
            raise UsageError(
                "Fp8Linear",
                expected=f"widths that are multiples of {_MULTIPLE}",
                got=f"{base.in_features} to {base.out_features}",
            )
        self.in_features, self.out_features = base.in_features, base.out_features
        rounded, scale = _rounded(base.weight.detach())
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = base.bias

    def forward(self, input: Tensor) -> Tensor:
        """``[..., out_features]`` in the dtype of ``input``."""
        if not input.numel():  # the kernels take no empty product
            return input.new_zeros(*input.shape[:-1], self.out_features)
        rows, scale = _rounded(input.reshape(-1, self.in_features))
        out = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16
        )
        out = out.to(input.dtype) if self.bias is None else out.to(input.dtype) + self.bias
        return out.view(*input.shape[:-1], self.out_features)


def fits(layer: nn.Linear) -> bool:
    """Whether the kernels take the layer's widths."""
    return not (layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE)


def reason_fp8_unsupported(device: torch.device) -> str | None:
    """Why 8-bit products cannot run on a device, or ``None``; found out by trying one."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
        return "needs a GPU of compute capability 8.9 (Ada) or newer"
    try:
        layer = Fp8Linear(nn.Linear(_MULTIPLE, _MULTIPLE, device=device))
        with torch.no_grad():
            found = layer(torch.ones(_MULTIPLE, _MULTIPLE, device=device))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None if bool(torch.isfinite(found).all()) else "the product is not finite"


def use_fp8_linears(model: SeqTexTransformer) -> tuple[str, ...]:
    """Replace the linear layers of all blocks in place; returns the names of those replaced.

    Layers whose widths the kernels do not take stay, as do the geometry casters, which do not run
    in the steps.

    Args:
        model: with adapters merged, if it has any, and on the device where it will run.

    Raises:
        UnsupportedError: the device cannot.
        UsageError: adapters that are not merged.
    """
    device = next(model.blocks.parameters()).device
    if why := reason_fp8_unsupported(device):
        raise UnsupportedError("fp8 linears", expected="a device with 8-bit products", got=why)
    replaced, made = [], {}
    for name, layer in list(model.blocks.named_modules()):
        if not isinstance(layer, nn.Linear) or "geometry_caster" in name or ".lora_" in name:
            continue
        if isinstance(layer, LoRALinear) and not layer.is_merged:
            raise UsageError(
                f"layer {name!r}",
                expected="merged adapters",
                got="an adapter beside its weight",
                remedy="Call merge_lora(model, keep_base=False) first.",
            )
        if fits(layer):
            made[id(layer)] = Fp8Linear(layer)
            replaced.append(name)
    _replace(model.blocks, made)
    return tuple(replaced)


def _replace(module: nn.Module, made: dict[int, Fp8Linear]) -> None:
    """Put the new layers in every place of the old ones; branches may share them."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in made:
                setattr(parent, name, made[id(child)])


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[M, K]`` in e4m3, and what to multiply each with, ``[M, 1]`` in fp32."""
    wide = rows.float()
    scale = wide.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LARGEST
    return (wide / scale).to(FORMAT), scale
