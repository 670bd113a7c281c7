"""A model made ready to sample: adapters merged, projections of the same rows one product."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .joint_projection import join_layers
from .lora import merge_lora
from .transformer import SeqTexTransformer


def prepare_for_inference(
    model: SeqTexTransformer, *, keep_base: bool = False
) -> SeqTexTransformer:
    """The same model without gradients, computing what it did with fewer and larger products.

    Adapters are folded into their weights, and the weights of queries, keys and values (of text
    keys and values, too) come to lie one after the other, so that each group is one product. Names,
    shapes and memory stay as they are; while a group is moved, it exists twice. Call it where the
    model will run: moving or casting the weights afterwards takes the groups apart again.

    Args:
        model: changed in place, and returned.
        keep_base: remember the weights without adapters, so that ``unmerge_lora`` is exact.
    """
    model.eval().requires_grad_(False)
    merge_lora(model, keep_base=keep_base)
    for layers in joint_layers(model):
        join_layers(layers)
    return model


def joint_layers(model: SeqTexTransformer) -> Iterator[list[nn.Module]]:
    """Groups of layers, by block and branch, that read the same rows."""
    for pair in model.muv_blocks():
        for block in (pair.mv, pair.uv):
            layers = dict(block.named_modules())
            for names in block.joint_projections:
                if all(name in layers for name in names):
                    yield [layers[name] for name in names]
