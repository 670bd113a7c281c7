"""Checks against the original implementation; skipped for a backbone that has none."""

from __future__ import annotations

import unittest
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter import Backbone
from ..decoupled_config import DecoupledConfig
from ..transformer import SeqTexTransformer
from .harness import Harness, Inputs, assert_differs, randomize


class ParityChecks(Harness):
    """The mv branch is the original model."""

    def test_mv_equals_the_original_at_one_level(self) -> None:
        """Geometry given but casters zero, adapters zero: the original's velocity."""
        transformer = self.make_transformer(random=False)
        inputs = self._views_at_one_level(transformer)
        got = self.velocity(transformer, inputs)["views"]
        want = self._reference(transformer, inputs, inputs.sigmas["views"][:, 0])
        self.assert_close("velocity", got, want)
        assert_differs("velocity against zero", got, torch.zeros_like(got), least=1e-2)

    def test_mv_equals_the_original_with_levels_per_frame(self) -> None:
        """The same with a level per frame, the uv branch running beside it."""
        transformer = self.make_transformer(random=False)
        if not transformer.backbone.reference_levels_per_frame:
            raise unittest.SkipTest("the original takes one level for all frames")
        length = transformer.spec.text_length
        inputs = self.make_inputs(transformer, batch=2, text_length=length)
        got = self.velocity(transformer, inputs)["views"]
        self.assert_close("velocity", got, self._reference(transformer, inputs))

    def test_mv_equals_the_original_with_hidden_text(self) -> None:
        """Models trained with padding rows hidden: another number of them in each sample."""
        transformer = self.make_transformer(random=False)
        if not transformer.spec.masks_text:
            raise unittest.SkipTest("the model reads all text rows")
        inputs = self._views_at_one_level(transformer)
        lengths = torch.tensor([[transformer.spec.text_length - 1], [2]])
        mask = torch.arange(transformer.spec.text_length) < lengths
        hidden = replace(inputs, text_mask=mask)
        got = self.velocity(transformer, hidden)["views"]
        want = self._reference(transformer, hidden, inputs.sigmas["views"][:, 0])
        self.assert_close("velocity", got, want)
        shown = self.velocity(transformer, inputs)["views"]
        assert_differs("velocity", got, shown, least=10 * self.tolerance)

    def test_mv_with_adapters_equals_the_original_with_merged_weights(self) -> None:
        """Random adapters, random geometry tokens but zero casters."""
        transformer = self.make_transformer()
        for block in transformer.muv_blocks():
            torch.nn.init.zeros_(block.geometry_caster.weight)
            torch.nn.init.zeros_(block.geometry_caster.bias)
        inputs = self._views_at_one_level(transformer)
        got = self.velocity(transformer, inputs)["views"]
        want = self._reference(transformer, inputs, inputs.sigmas["views"][:, 0])
        # The merged weight is rounded once more than the separate products.
        self.assert_close("velocity", got, want, times=4)

    def test_fully_trained_mv_branch_is_the_original_too(self) -> None:
        """``mv_train="full"``: no adapters, the same function."""
        transformer = self.make_transformer(DecoupledConfig(mv_train="full"), random=False)
        inputs = self._views_at_one_level(transformer)
        want = self._reference(transformer, inputs, inputs.sigmas["views"][:, 0])
        self.assert_close("velocity", self.velocity(transformer, inputs)["views"], want)

    def test_levels_matter_frame_by_frame(self) -> None:
        """Another level of one frame changes the velocity: the levels are not ignored."""
        transformer = self.make_transformer(random=False)
        inputs = self.make_inputs(transformer)
        before = self.velocity(transformer, inputs)["views"]
        inputs.sigmas["views"][:, -1] = 1.0 - inputs.sigmas["views"][:, -1]
        after = self.velocity(transformer, inputs)["views"]
        assert_differs("velocity", after, before, least=100 * self.tolerance)

    def test_bfloat16_is_as_accurate_as_the_original(self) -> None:
        """Error of bf16 against fp32 at most twice the original implementation's own."""
        transformer = self.make_transformer(random=False)
        inputs = self._views_at_one_level(transformer)
        sigma = inputs.sigmas["views"][:, 0]
        exact = self._reference(transformer, inputs, sigma)
        transformer.to(torch.bfloat16)
        ours = self.velocity(transformer, inputs)["views"]
        theirs = self._reference(transformer, inputs, sigma)
        error, allowed = _rms(ours - exact), 2.0 * _rms(theirs.float() - exact)
        assert ours.dtype == inputs.latents["views"].dtype
        assert 0 < error <= allowed, f"bf16 error {error:.3g}, allowed {allowed:.3g}"

    def test_weights_reach_the_original_under_its_own_names(self) -> None:
        """Every weight of the mv branch changes the reference: no key is dropped or swapped."""
        transformer = self.make_transformer(random=False)
        inputs = self._views_at_one_level(transformer)
        sigma = inputs.sigmas["views"][:, 0]
        before = self._reference(transformer, inputs, sigma)
        for block in transformer.muv_blocks():
            randomize(block.mv, seed=5)
        randomize(transformer.shells["mv"], seed=6)
        want = self._reference(transformer, inputs, sigma)
        assert_differs("reference", want, before, least=1e-3)
        self.assert_close("velocity", self.velocity(transformer, inputs)["views"], want, times=4)

    def _views_at_one_level(self, transformer: SeqTexTransformer) -> Inputs:
        length = transformer.spec.text_length
        inputs = self.make_inputs(transformer, batch=2, text_length=length)
        inputs.sigmas["views"][:] = inputs.sigmas["views"][:, :1]
        return inputs

    def _reference(
        self, transformer: SeqTexTransformer, inputs: Inputs, sigma: Tensor | None = None
    ) -> Tensor:
        backbone = transformer.backbone
        left_out = type(backbone).reference_velocity is Backbone.reference_velocity
        try:
            return backbone.reference_velocity(
                transformer.mv_state_dict(),
                inputs.latents["views"],
                inputs.sigmas["views"] if sigma is None else sigma,
                inputs.text,
                inputs.image,
                text_mask=inputs.text_mask,
                pooled_text=inputs.pooled_text,
            )
        except NotImplementedError as error:
            if error.args and not left_out:  # such as an operation of it that torch lacks
                raise
            reason = f"{backbone.spec.name} has no original: no reference_velocity"
            raise unittest.SkipTest(reason) from error


def _rms(tensor: Tensor) -> float:
    return float(tensor.float().pow(2).mean().sqrt())
