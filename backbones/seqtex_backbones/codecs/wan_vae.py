"""The Wan video VAE as an image codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diffusers_class import diffusers_class
from . import wan_frames
from .tiles import Tiles
from .video_vae import VideoVAECodec


class WanVAECodec(VideoVAECodec):
    """diffusers' ``AutoencoderKLWan`` over single frames, latents normalised per channel.

    The statistics are those of the VAE's configuration. The released SeqTex weights expect
    ``ranges=RELEASED_RANGES`` and ``sample_posterior=True``. The VAE itself cuts what it decodes to
    [-1, 1], clamped or not.
    """

    name = "wan_vae"

    @classmethod
    def vae_class(cls) -> Any:
        """``AutoencoderKLWan``."""
        return diffusers_class("AutoencoderKLWan")

    @property
    def latent_channels(self) -> int:
        """Channels of the latents (16; 48 for Wan 2.2 5B)."""
        return int(self._vae_config["z_dim"])

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent texel (8; 16 for Wan 2.2 5B)."""
        halvings = len(self._vae_config["dim_mult"]) - 1
        return int(2**halvings * (self._vae_config["patch_size"] or 1))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self._vae_config["latents_mean"], device=like.device).view(shape)
        std = torch.tensor(self._vae_config["latents_std"], device=like.device).view(shape)
        return mean, std

    def _encode_frames(self, frames: Tensor) -> Tensor:
        vae, factor = self.vae, self.spatial_factor
        if self.tile_size is None or max(frames.shape[-2:]) <= self.tile_size * factor:
            return wan_frames.encode(vae, frames)
        tiles = Tiles(size=self.tile_size, reach=wan_frames.encoder_reach(vae), inward=factor)
        return wan_frames.encode_last(vae, tiles(lambda x: wan_frames.encode_first(vae, x), frames))

    def _decode_frames(self, latents: Tensor) -> Tensor:
        vae, factor = self.vae, self.spatial_factor
        if self.tile_size is None or max(latents.shape[-2:]) <= self.tile_size:
            return wan_frames.decode(vae, latents)
        tiles = Tiles(size=self.tile_size, reach=wan_frames.decoder_reach(vae), outward=factor)
        hidden_states = wan_frames.decode_first(vae, latents)
        return tiles(lambda x: wan_frames.decode_last(vae, x), hidden_states)
