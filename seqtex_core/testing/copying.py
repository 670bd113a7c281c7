"""The suite for models with a copy head."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from ..copy_head import CopyConfig
from ..copy_places import copied_latents, copied_velocity
from ..packed_layout import PackedLayout
from ..transformer import SeqTexTransformer
from .conformance import BackboneConformance
from .harness import Inputs, assert_differs, assert_same

_ROUNDING = 0.04
"""A weight is the exponent of a squared distance in nine scaled coordinates, which is 9 / 2 on
average over the weights. The scales are exponents of up to 2.2, kept with 2^-9: squared distances
are off by 2 * 2.2 / 512 = 0.9%, and what is copied by 4.5 times that. Rows are off by less."""


class CopyConformance(BackboneConformance):
    """All checks on models that have a copy head, and checks of what it copies.

    The backbone's tokens must be one latent texel each: ``patch_size`` 1, 1, 1.

    Example:
        >>> class TestMineCopying(CopyConformance):
        ...     def make_backbone(self) -> Backbone:
        ...         return MyBackbone(tiny_model(patch_size=(1, 1, 1)))
    """

    copy = CopyConfig(heads=3)

    def test_copies_are_in_place_of_the_target_alone(self) -> None:
        """Other groups are bit-equal to those without the head."""
        transformer = self.make_transformer()
        for inputs in self._batches(transformer):
            with_copies = self.velocity(transformer, inputs)
            head, transformer.copy_head = transformer.copy_head, None
            without = self.velocity(transformer, inputs)
            transformer.copy_head = head
            target = self.copy.target
            moved, still = with_copies.pop(target), without.pop(target)
            assert_same("others", with_copies, without)
            assert_differs(target, moved, still, least=100 * self.tolerance)

    def test_bfloat16_rows_and_weights_are_all_that_is_rounded(self) -> None:
        """What a head in fp32 makes of the same rows and weights: bit-equal."""
        transformer = self.make_transformer().to(torch.bfloat16)
        head = deepcopy(transformer.copy_head)
        assert head is not None
        head.float()
        name = self.copy.target
        for inputs in self._batches(transformer):
            copies = self.prepare(transformer, inputs).copies
            hidden = self._after_block(transformer, inputs, block=-1).uv
            assert copies is not None
            assert hidden is not None
            with torch.no_grad():
                clean = copied_latents(head, copies, hidden.float())
            want = copied_velocity(copies, clean, inputs.latents[name], inputs.sigmas[name])
            got = self.velocity(transformer, inputs)[name]
            assert_same("velocity", {name: got}, {name: want})

    def test_bfloat16_copies_what_float32_copies(self) -> None:
        """Clean latents, by their mean square; a whole model in bfloat16."""
        name = self.copy.target
        transformer, rounded = (self.make_transformer().to(d) for d in _DTYPES)
        for inputs in self._batches(transformer):
            # levels well above the floor, so that velocities say what is clean
            inputs.sigmas[name].clamp_(min=0.1)
            level = inputs.sigmas[name][:, None, :, None, None]
            clean = [
                inputs.latents[name] - level * self.velocity(model, inputs)[name]
                for model in (transformer, rounded)
            ]
            error = _size(clean[1] - clean[0]) / _size(clean[0])
            assert 0 < error <= _ROUNDING, f"bf16 differs by {error:.3g}, allowed {_ROUNDING}"

    def _batches(self, transformer: SeqTexTransformer) -> Iterator[Inputs]:
        """Two samples of all tokens; two that keep different tokens."""
        inputs = self.make_inputs(transformer, batch=2)
        yield inputs
        keep = {
            "views": [torch.arange(0, 12, 2), torch.arange(3, 9)],
            self.copy.source: [torch.arange(13), torch.arange(5, 20)],
            self.copy.target: [torch.arange(9, 20), torch.arange(0, 20, 3)],
        }
        yield replace(inputs, packed=PackedLayout.of(inputs.layout, keep))


_DTYPES = (torch.float32, torch.bfloat16)


def _size(latents: Tensor) -> float:
    return float(latents.square().mean().sqrt())
