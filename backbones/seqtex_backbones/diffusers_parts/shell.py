"""What surrounds the blocks of a diffusers transformer: patches, noise levels, prompts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from seqtex_core.adapter import BackboneShell, TextContext
from seqtex_core.errors import UsageError

from .patches import ConvPatches, LinearPatches


class DiffusersShell(BackboneShell):
    """Embedders of a model that reads latents in patches, and a prompt."""

    @property
    @abstractmethod
    def patches(self) -> ConvPatches | LinearPatches:
        """The patch embedding."""

    def network_input(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """What is cut into patches for ``x_sigma``: the same, if the model is a rectified flow.

        Args:
            latents: ``x_sigma``, ``[B, C, F, H, W]``; what is returned has their dtype.
            sigma: ``[B, F]``, fp32.
        """
        del sigma
        return latents

    @abstractmethod
    def text_context(self, text: Tensor, mask: Tensor | None, pooled: Tensor | None) -> TextContext:
        """What the blocks read of a prompt; arguments as those of ``encode_text``."""

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``."""
        tokens: Tensor = self.patches(self.network_input(latents, sigma))
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding over the latent channels alone."""
        return self.patches.of_latents()

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """What the blocks read of a prompt, and of an image."""
        context = self.text_context(text, mask, pooled)
        return context if image is None else replace(context, image=self.image_tokens(image))

    def image_tokens(self, image: Tensor) -> Tensor:
        """What the blocks read of image-encoder rows ``[B, S', image_dim]``; most read none.

        Raises:
            UsageError: always, unless overridden.
        """
        raise UsageError(
            "image", expected="none: this model has no image encoder", got=str(image.shape)
        )


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
