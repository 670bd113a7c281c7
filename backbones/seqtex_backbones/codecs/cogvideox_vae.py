"""The CogVideoX video VAE as an image codec."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from seqtex_core.errors import UsageError

from ..diffusers_class import diffusers_class
from . import cogvideox_frames
from .video_vae import VideoVAECodec


class CogVideoXVAECodec(VideoVAECodec):
    """diffusers' ``AutoencoderKLCogVideoX`` over single frames.

    Latents are ``z`` times one factor for all channels (0.7; 1.15258426 for the 2B model), taken
    from the VAE's configuration. Its group norms see whole frames, so that there is no
    ``tile_size``.
    """

    name = "cogvideox_vae"

    @classmethod
    def vae_class(cls) -> Any:
        """``AutoencoderKLCogVideoX``."""
        return diffusers_class("AutoencoderKLCogVideoX")

    @property
    def latent_channels(self) -> int:
        """Channels of the latents (16)."""
        return int(self._vae_config["latent_channels"])

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent texel (8)."""
        return int(2 ** (len(self._vae_config["block_out_channels"]) - 1))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        std = like.new_tensor(1.0 / float(self._vae_config["scaling_factor"]))
        return like.new_zeros(()), std

    def _encode_frames(self, frames: Tensor) -> Tensor:
        return cogvideox_frames.encode(self.vae, frames)

    def _decode_frames(self, latents: Tensor) -> Tensor:
        return cogvideox_frames.decode(self.vae, latents)

    def _check_tile(self, tile_size: int) -> None:
        raise UsageError(
            "tile_size",
            expected="None, because the norms of this VAE see whole frames",
            got=str(tile_size),
        )
