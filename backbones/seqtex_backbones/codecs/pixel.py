"""A lossless codec without weights: an orthonormal transform of pixel patches.

Nothing is compressed, so geometry maps are not distorted (a limitation of video VAEs, paper
Sec. 6.5), and white noise in latents is white noise in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.noise import Generators

from .protocol import SYMMETRIC_RANGES, Content, ValueRanges, check_latents, images_to_video

PATCH_SIZES = (1, 2, 4, 8, 16)


class PixelCodec:
    """Patches of ``p x p`` pixels as ``3 p^2`` orthonormal coefficients.

    Two-dimensional cosine transform of every patch, times an orthonormal colour transform
    (brightness and two differences). Channels run from low to high frequency, three colour
    coefficients each. Computed in float32; a round trip differs by rounding only.

    Args:
        patch_size: pixels per latent texel, in both directions: 1, 2, 4, 8 or 16.
        ranges: value ranges before the transform.
        latents_mean: subtracted from the coefficients; one number, or one per channel.
        latents_std: divides them. One number keeps noise white in pixel space; one per channel
            does not.

    Raises:
        UsageError: another patch size, statistics of another length, or a deviation <= 0.
    """

    name = "pixel"

    def __init__(
        self,
        *,
        patch_size: int = 4,
        ranges: ValueRanges = SYMMETRIC_RANGES,
        latents_mean: float | Sequence[float] = 0.0,
        latents_std: float | Sequence[float] = 1.0,
    ) -> None:
        if patch_size not in PATCH_SIZES:
            raise UsageError("patch_size", expected=f"one of {PATCH_SIZES}", got=str(patch_size))
        self.patch_size = patch_size
        self.ranges = ranges
        self.latents_mean = _statistic("latents_mean", latents_mean, self.latent_channels)
        self.latents_std = _statistic("latents_std", latents_std, self.latent_channels)
        if min(self.latents_std) <= 0:
            raise UsageError(
                "latents_std", expected="positive numbers", got=str(min(self.latents_std))
            )

    @property
    def latent_channels(self) -> int:
        """``3 p^2``."""
        return 3 * self.patch_size**2

    @property
    def spatial_factor(self) -> int:
        """``p``."""
        return self.patch_size

    @cached_property
    def basis(self) -> Tensor:
        """The transform ``[3 p^2, 3 p^2]``, orthonormal; columns ordered ``(row, column, rgb)``."""
        cosine = cosine_basis(self.patch_size)
        flat = torch.einsum("iy,jx->ijyx", cosine, cosine).reshape(self.patch_size**2, -1)
        rows, cols = torch.meshgrid(*[torch.arange(self.patch_size)] * 2, indexing="ij")
        order = torch.argsort(((rows + cols) * self.patch_size + rows).flatten())
        return torch.kron(flat[order], colour_basis())

    def encode(
        self, images: Tensor, *, content: Content = "rgb", generator: Generators | None = None
    ) -> Tensor:
        """Latents ``[B, 3 p^2, F, H/p, W/p]``, float32; see :meth:`Codec.encode`.

        ``generator`` is not needed: nothing is drawn.

        Raises:
            UsageError: images of another shape, dtype, or a size that ``p`` does not divide.
        """
        video = images_to_video(images, self.patch_size).float()
        video = self.ranges.inward(video, content)
        p = self.patch_size
        patches = rearrange(video, "b c f (h y) (w x) -> b f h w (y x c)", y=p, x=p)
        coefficients = torch.matmul(patches, self.basis.to(patches).T)
        latents: Tensor = rearrange(coefficients, "b f h w c -> b c f h w")
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: Tensor, *, content: Content = "rgb", clamp: bool = True) -> Tensor:
        """Images ``[B, 3, F, H, W]``, float32; see :meth:`Codec.decode`.

        Raises:
            UsageError: latents of another shape.
        """
        check_latents(latents, self.latent_channels)
        mean, std = self._statistics(latents)
        coefficients = rearrange(latents.float() * std + mean, "b c f h w -> b f h w c")
        patches = torch.matmul(coefficients, self.basis.to(coefficients))
        p = self.patch_size
        video: Tensor = rearrange(patches, "b f h w (y x c) -> b c f (h y) (w x)", y=p, x=p)
        return self.ranges.outward(video, content, clamp=clamp)

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings."""
        return {
            "codec": self.name,
            "patch_size": self.patch_size,
            "ranges": self.ranges.to_config(),
            "latents_mean": list(self.latents_mean),
            "latents_std": list(self.latents_std),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The codec that :meth:`to_config` described."""
        return cls(
            patch_size=config["patch_size"],
            ranges=ValueRanges.from_config(config["ranges"]),
            latents_mean=config["latents_mean"],
            latents_std=config["latents_std"],
        )

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.latents_mean, device=like.device).view(shape)
        std = torch.tensor(self.latents_std, device=like.device).view(shape)
        return mean, std


def cosine_basis(size: int) -> Tensor:
    """Orthonormal cosine transform ``[frequency, position]``, float64 (DCT-II)."""
    k = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def colour_basis() -> Tensor:
    """Orthonormal colour transform ``[3, rgb]``, float64: brightness, red - blue, green - rest."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]], dtype=torch.float64)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms


def _statistic(name: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = (float(value),) if isinstance(value, int | float) else tuple(map(float, value))
    if len(values) not in (1, channels):
        raise UsageError(name, expected=f"1 or {channels} numbers", got=str(len(values)))
    return values
