"""The LTX-Video VAE as an image codec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seqtex_core.errors import UsageError

from ..diffusers_class import diffusers_class
from .video_vae import VideoVAECodec

_DECODER_SEED = 0


class LTXVAECodec(VideoVAECodec):
    """diffusers' ``AutoencoderKLLTXVideo`` over single frames, latents normalised per channel.

    128 channels stand for 32 x 32 pixels. The statistics are buffers of the VAE and travel with its
    weights. Decoders that are told how noisy their latents are (since 0.9.1) are told that they are
    clean; noise that such decoders add inside is the same in every call. There is no
    ``tile_size``.
    """

    name = "ltx_vae"

    @classmethod
    def vae_class(cls) -> Any:
        """``AutoencoderKLLTXVideo``."""
        return diffusers_class("AutoencoderKLLTXVideo")

    @property
    def latent_channels(self) -> int:
        """Channels of the latents (128)."""
        return int(self._vae_config["latent_channels"])

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent texel (32)."""
        vae: Any = self.vae
        return int(vae.spatial_compression_ratio)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        vae: Any = self.vae
        shape, factor = (1, -1, 1, 1, 1), float(self._vae_config["scaling_factor"])
        return vae.latents_mean.view(shape).to(like), vae.latents_std.view(shape).to(like) / factor

    def _encode_frames(self, frames: Tensor) -> Tensor:
        vae: Any = self.vae
        moments: Tensor = vae.encode(frames.unsqueeze(2)).latent_dist.parameters
        return moments.squeeze(2)

    def _decode_frames(self, latents: Tensor) -> Tensor:
        vae: Any = self.vae
        clean = (
            latents.new_zeros(len(latents)) if self._vae_config["timestep_conditioning"] else None
        )
        with _repeatable(latents.device):
            video: Tensor = vae.decode(latents.unsqueeze(2), clean).sample
        return video.squeeze(2)

    def _check_tile(self, tile_size: int) -> None:
        raise UsageError(
            "tile_size", expected="None: this codec takes whole frames", got=str(tile_size)
        )


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Torch's global generators at a fixed seed, and as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_DECODER_SEED)
        yield
