"""Classifier-free guidance as a wrapper around any velocity model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .sampling import PredictVelocity


def with_guidance(
    conditional: PredictVelocity, unconditional: PredictVelocity, scale: float
) -> PredictVelocity:
    """A model that predicts ``u_uncond + scale * (u_cond - u_uncond)``.

    Args:
        conditional: the model with the prompt.
        unconditional: the model with the empty prompt.
        scale: guidance; 1 is the conditional model itself, at the cost of one call.

    Source:
        Ho and Salimans, Classifier-free diffusion guidance (arXiv 2207.12598), Eq. 6.
    """
    if scale == 1.0:
        return conditional

    def predict(
        latents: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        with_text = conditional(latents, sigmas)
        without = unconditional(latents, sigmas)
        return {name: u + scale * (with_text[name] - u) for name, u in without.items()}

    return predict
