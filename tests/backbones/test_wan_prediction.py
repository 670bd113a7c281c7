"""A Wan transformer that predicts clean latents speaks velocity like any other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seqtex_backbones.registry import load_backbone
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_core.errors import UsageError
from seqtex_core.transformer import SeqTexTransformer

CLEAN = replace(WAN_TINY, config=replace(WAN_TINY.config, prediction="clean"))


def velocity(entry, latents, sigma):
    transformer = SeqTexTransformer(load_backbone(entry, seed=0)).eval()
    with torch.no_grad():
        layout = transformer.layout({"views": (2, 4, 4)}, {"views": "mv"})
        cache = transformer.prepare(layout, batch_size=1)
        return transformer({"views": latents}, {"views": sigma}, cache)["views"], transformer


def test_velocity_points_from_the_predicted_clean_latents_to_the_noise():
    latents = torch.randn(1, 16, 2, 4, 4)
    sigma = torch.tensor([[0.8, 0.3]])
    clean, _ = velocity(WAN_TINY, latents, sigma)  # the same network, its output taken as it is
    given, transformer = velocity(CLEAN, latents, sigma)
    expected = (latents - clean) / sigma[:, None, :, None, None]
    torch.testing.assert_close(given, expected)
    text = torch.zeros(1, 8, 32)
    state = transformer.mv_state_dict()
    reference = transformer.backbone.reference_velocity(state, latents, sigma, text)
    # Parity tolerance of the adapters, 2e-6, divided by the smallest sigma.
    torch.testing.assert_close(given, reference, atol=2e-6 / 0.3, rtol=0)


def test_an_error_is_not_blown_up_near_zero_noise():
    latents = torch.randn(1, 16, 2, 4, 4)
    tiny, _ = velocity(CLEAN, latents, torch.full((1, 2), 1e-4))
    assert tiny.abs().max() < 20 * (latents.abs().max() + 3)


def test_unknown_predictions_are_refused():
    with pytest.raises(UsageError, match="prediction"):
        replace(CLEAN, config=replace(CLEAN.config, prediction="noise")).build()
