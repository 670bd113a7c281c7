"""Classifier-free guidance around any velocity model."""

from __future__ import annotations

import torch

from seqtex_core.guidance import with_guidance


def model(value: float, calls: list[float]):
    def predict(latents, sigmas):
        calls.append(value)
        return {name: torch.full_like(x, value) for name, x in latents.items()}

    return predict


def test_guidance_extrapolates_from_the_unconditional_prediction():
    latents = {"views": torch.zeros(1, 2, 1, 2, 2)}
    guided = with_guidance(model(3.0, []), model(1.0, []), 4.0)
    assert torch.equal(guided(latents, {})["views"], torch.full((1, 2, 1, 2, 2), 9.0))


def test_scale_one_costs_one_call():
    calls: list[float] = []
    guided = with_guidance(model(3.0, calls), model(1.0, calls), 1.0)
    guided({"views": torch.zeros(1)}, {})
    assert calls == [3.0]
