"""Noise levels and prompts, as the embedders of diffusers take them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from seqtex_core.errors import UsageError


def embed_levels(sinusoid: Any, mlp: Any, values: Tensor) -> Tensor:
    """``mlp(sinusoid(values))``, ``[..., D]``: one row per level.

    Args:
        sinusoid: a diffusers ``Timesteps``; what it gives is fp32, as large times feel every
            rounding.
        mlp: a diffusers ``TimestepEmbedding``, in the dtype of its weights.
        values: the model's own times or scales, ``[...]``, fp32.
    """
    waves = sinusoid(values.flatten()).to(mlp.linear_1.weight.dtype)
    embedded = mlp(waves)
    rows: Tensor = embedded.unflatten(0, values.shape)
    return rows


def refuse_image(image: Tensor | None) -> None:
    """Only for models that read text alone.

    Raises:
        UsageError: an image.
    """
    if image is not None:
        raise UsageError(
            "image", expected="none: this model has no image encoder", got=str(image.shape)
        )
