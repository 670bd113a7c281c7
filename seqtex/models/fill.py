"""Empty transformers, and filling them without ever holding a second copy."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import empty_backbone
from seqtex_core.checkpoint import unique_tensors
from seqtex_core.parameter_table import ParameterTable
from seqtex_core.transformer import SeqTexTransformer

from .config import ModelConfig


def empty_transformer(
    config: ModelConfig, *, dtype: torch.dtype | None = None
) -> SeqTexTransformer:
    """The model's transformer on the meta device: names, shapes and dtypes, no memory.

    Args:
        config: what to build.
        dtype: of the parameters, but for those that the backbone keeps in fp32; fp32 by default.
    """
    backbone = empty_backbone(entry_from_config(config.backbone), dtype=dtype)
    return SeqTexTransformer(backbone, config.decoupled)


def fill_with_seed(transformer: SeqTexTransformer, seed: int) -> None:
    """Give every weight of an empty transformer seeded random values, one tensor after the other.

    Each tensor is drawn from its own name and the seed, in fp32, and rounded to its dtype: a
    network of ordinary scale, for dry runs. Matrices and kernels are uniform in
    ``+-1 / sqrt(inputs)``, tables (whose first dimension is 1) normal with deviation
    ``1 / sqrt(width)``, norms one, biases zero. As in an untrained model, the texture branch starts
    as the copy of its origin that it is, and geometry and adapters add nothing.

    Args:
        transformer: on the meta device.
        seed: of all values.
    """
    named = unique_tensors(transformer)
    table = ParameterTable([transformer])
    values: dict[str, Tensor] = {}
    for name, old in named.items():
        origin = _origin(name)
        source = values.get(origin) if origin != name else None
        value = _drawn(name, old, seed) if source is None else source.clone()
        table.replace(old, value)
        values[name] = value


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, shared ones once."""
    held = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in held.values())


def _origin(name: str) -> str:
    """The tensor of the mv branch that an untrained uv branch copies; the name itself elsewhere."""
    if name.startswith("shells.uv."):
        return name.replace("shells.uv.", "shells.mv.", 1)
    if name.startswith("blocks."):
        return name.replace(".uv.", ".mv.", 1)
    return name


def _drawn(name: str, like: Tensor, seed: int) -> Tensor:
    if "geometry_caster" in name or name.endswith("lora_B.weight"):
        return torch.zeros(like.shape, dtype=like.dtype)
    if like.ndim == 1:
        return (torch.zeros if name.endswith("bias") else torch.ones)(like.shape, dtype=like.dtype)
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    value = torch.empty(like.shape)
    if like.shape[0] == 1:
        value.normal_(std=1.0 / math.sqrt(like.shape[-1]), generator=generator)
    else:
        bound = 1.0 / math.sqrt(math.prod(like.shape[1:]))
        value.uniform_(-bound, bound, generator=generator)
    return value.to(like.dtype)
