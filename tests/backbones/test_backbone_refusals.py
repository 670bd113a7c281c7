"""Settings that no backbone, sampler or codec can have are named before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seqtex_backbones import UniPCSampler, WanConfig, codec_from_config, load_backbone
from seqtex_core import DecoupledConfig, GeometryLatents, SeqTexTransformer
from seqtex_core.errors import UsageError


def wan(**given: Any) -> WanConfig:
    return WanConfig(**{"num_attention_heads": 2, "num_layers": 1, "ffn_dim": 8} | given)


def geometry_of_two_for_one() -> object:
    config = DecoupledConfig(lora_rank=2)
    transformer = SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)
    layout = transformer.layout({"views": (1, 2, 2)}, {"views": "mv"})
    maps = torch.zeros(2, 16, 1, 2, 2)
    geometry = {"views": GeometryLatents(position=maps, normal=maps)}
    return transformer.prepare(layout, geometry=geometry)


CASES: dict[str, tuple[str, Callable[[], object]]] = {
    "no blocks": ("num_layers", lambda: wan(num_layers=0)),
    "heads as text": ("num_attention_heads", lambda: wan(num_attention_heads="2")),
    "odd head dim": ("attention_head_dim", lambda: wan(attention_head_dim=25)),
    "prediction": ("prediction", lambda: wan(prediction="noise")),
    "integer weights": ("dtype", lambda: load_backbone("wan-tiny", seed=0, dtype=torch.int8)),
    "rising levels": ("sigmas", lambda: UniPCSampler([0.5, 1.0, 0.0])),
    "no levels": ("sigmas", lambda: UniPCSampler([])),
    "order": ("solver_order", lambda: UniPCSampler([1.0, 0.0], solver_order=0)),
    "type": ("solver_type", lambda: UniPCSampler([1.0, 0.0], solver_type="x")),  # type: ignore[arg-type]
    "codec without settings": ("codec config", lambda: codec_from_config({"codec": "pixel"})),
    "geometry of two for one": ("geometry", geometry_of_two_for_one),
}


@pytest.mark.parametrize("case", CASES)
def test_nonsense_is_named(case: str) -> None:
    subject, call = CASES[case]
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.subject.startswith(subject)
