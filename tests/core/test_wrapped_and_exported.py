"""What other programs do with the blocks: wrap them, trace them, export them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)

from seqtex_backbones.registry import load_backbone
from seqtex_core.attention.geo_attention import GeoAttention, GeoAttentionConfig, Placement
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.muv_block import MUVBlock
from seqtex_core.rope import Rope
from seqtex_core.transformer import SeqTexTransformer

SIZES = {"views": (2, 4, 4), "texture": (1, 8, 8)}


def model() -> SeqTexTransformer:
    return SeqTexTransformer(load_backbone("wan-tiny", seed=0), DecoupledConfig(lora_rank=2))


def training_step(transformer: SeqTexTransformer) -> tuple[Tensor, dict[str, Tensor]]:
    """The texture's velocity, and all gradients."""
    generator = torch.Generator().manual_seed(1)

    def draw() -> dict[str, Tensor]:
        return {n: torch.randn(1, 16, *size, generator=generator) for n, size in SIZES.items()}

    latents, position, normal = draw(), draw(), draw()
    maps = {n: GeometryLatents(position=position[n], normal=normal[n]) for n in SIZES}
    levels = {name: torch.full((1, size[0]), 0.5) for name, size in SIZES.items()}
    layout = transformer.layout(SIZES, {"views": "mv", "texture": "uv"})
    velocity = transformer(latents, levels, transformer.prepare(layout, geometry=maps))["texture"]
    velocity.square().mean().backward()
    grads = {n: p.grad for n, p in transformer.named_parameters() if p.grad is not None}
    return velocity.detach(), {
        n.replace("_checkpoint_wrapped_module.", ""): g for n, g in grads.items()
    }


def test_activation_checkpointing_of_torch_wraps_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    want, gradients = training_step(model())
    wrapped = model()
    apply_activation_checkpointing(wrapped, check_fn=lambda part: isinstance(part, MUVBlock))
    calls: list[MUVBlock] = []
    forward = MUVBlock.forward

    def count(self: MUVBlock, *args: Any) -> Any:
        calls.append(self)
        return forward(self, *args)

    monkeypatch.setattr(MUVBlock, "forward", count)
    got, same = training_step(wrapped)
    assert torch.equal(got, want)
    assert set(same) == set(gradients)
    assert all(torch.equal(same[name], gradients[name]) for name in gradients)
    assert len(calls) == 2 * len(wrapped.blocks)  # forward, and again in the backward pass
    assert set(wrapped.state_dict()) == set(model().state_dict())
    assert set(wrapped.mv_state_dict()) == set(model().mv_state_dict())


def test_what_is_no_block_is_named() -> None:
    transformer = model()
    transformer.blocks[1] = nn.Identity()
    with pytest.raises(UsageError, match=r"block 1 of the transformer.*Identity"):
        training_step(transformer)


class GeoLayer(nn.Module):
    """Geo-Attention on tables that are given in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = GeoAttention(GeoAttentionConfig(dim=16, num_heads=2, geometry_dim=3))
        self.requires_grad_(False)

    def forward(self, x: Tensor, geometry: Tensor, angles: Tensor, more: Tensor) -> Tensor:
        parts = [Rope(cos=part.cos(), sin=part.sin()) for part in (angles, more)]
        placement = Placement(rope=Rope.cat(parts), geometry=geometry)
        made: Tensor = self.attention(x, placement=placement)
        return made


def inputs(length: int) -> tuple[Tensor, ...]:
    shapes = [(1, length, 16), (1, length, 3), (length - 4, 4), (4, 4)]
    return tuple(torch.randn(*shape) for shape in shapes)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_layer_is_traced() -> None:
    layer, given = GeoLayer(), inputs(12)
    traced = torch.jit.trace(layer, given)
    other = inputs(12)
    torch.testing.assert_close(traced(*other), layer(*other), rtol=0, atol=1e-6)


def test_a_layer_is_exported_for_any_number_of_rows() -> None:
    layer = GeoLayer()
    rows = torch.export.Dim("rows", min=5, max=4096)
    program = torch.export.export(
        layer, inputs(12), dynamic_shapes=({1: rows + 4}, {1: rows + 4}, {0: rows}, {})
    )
    for length in (9, 33):
        other = inputs(length)
        # complex numbers in eager mode, real ones in the graph
        torch.testing.assert_close(program.module()(*other), layer(*other), rtol=0, atol=1e-6)
