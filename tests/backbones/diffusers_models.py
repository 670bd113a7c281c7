"""Random models of a family, ours and those of diffusers, with the same weights."""

from __future__ import annotations

from typing import Any

import diffusers
from torch import Tensor

from seqtex_backbones.diffusers_parts.entry import DiffusersEntry
from seqtex_backbones.registry import load_backbone
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.testing.harness import randomize
from seqtex_core.transformer import SeqTexTransformer

FP32 = 2e-6  # of the largest expected value: a few roundings of sums of unit size


def random_transformer(entry: DiffusersEntry[Any], **options: Any) -> SeqTexTransformer:
    """Random base weights; adapters and casters as at init."""
    backbone = load_backbone(entry, seed=0)
    for index, module in enumerate([backbone.shell, *backbone.blocks]):
        randomize(module, seed=index)
    options = {"lora_rank": 4} | options
    return SeqTexTransformer(backbone, DecoupledConfig(**options)).eval()


def diffusers_model(
    transformer: SeqTexTransformer, entry: DiffusersEntry[Any], **changes: Any
) -> Any:
    """The class of diffusers with the weights of the mv branch."""
    config = {**entry.config.to_diffusers(), **changes}
    model = getattr(diffusers, entry.diffusers_class)(**config)
    model.load_state_dict(transformer.mv_state_dict(), strict=True)
    return model.eval()


def close(got: Tensor, want: Tensor, *, times: float = 1.0) -> None:
    """Refuse more than ``times`` a few roundings."""
    limit = times * FP32 * max(1.0, float(want.abs().max()))
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= limit
