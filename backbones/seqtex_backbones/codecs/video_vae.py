"""Video VAEs of diffusers as image codecs: every frame is encoded as the first of a video.

diffusers' models hold the weights; the forward is the one-frame form of ``one_frame``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.noise import Generators, draw_noise

from .protocol import SYMMETRIC_RANGES, Content, ValueRanges, check_latents, images_to_video


class VideoVAECodec(nn.Module, ABC):
    """A causal video VAE over single frames, latents normalised.

    Latents are ``(z - mean) / std``. The VAE is frozen; float32 is recommended whatever the
    transformer runs in. A VAE whose ``enable_tiling`` was called goes through diffusers' own
    forward, whose tiles are blended; ``tile_size`` is the way without seams.

    Args:
        vae: an instance of :meth:`vae_class`.
        ranges: value ranges that the VAE sees.
        sample_posterior: draw latents (needs a generator) instead of taking the mode.
        frames_per_chunk: frames that go through the VAE at once; bounds memory.
        tile_size: latent texels per side that go through the VAE at once; bounds memory for large
            textures, without seams and without changing the result. ``None``: whole frames.

    Raises:
        UsageError: ``frames_per_chunk`` or ``tile_size`` < 1, or tiles where the VAE cannot
            be cut.
    """

    name: str

    def __init__(
        self,
        vae: nn.Module,
        *,
        ranges: ValueRanges = SYMMETRIC_RANGES,
        sample_posterior: bool = False,
        frames_per_chunk: int = 1,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        if frames_per_chunk < 1:
            raise UsageError("frames_per_chunk", expected="at least 1", got=str(frames_per_chunk))
        if tile_size is not None:
            self._check_tile(tile_size)
        self.vae = vae.eval().requires_grad_(False)
        self.ranges = ranges
        self.sample_posterior = sample_posterior
        self.frames_per_chunk = frames_per_chunk
        self.tile_size = tile_size

    @classmethod
    @abstractmethod
    def vae_class(cls) -> Any:
        """The class of diffusers."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @property
    @abstractmethod
    def spatial_factor(self) -> int:
        """Pixels per latent texel, in both directions."""

    @abstractmethod
    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of ``z``, broadcastable to ``like``."""

    @abstractmethod
    def _encode_frames(self, frames: Tensor) -> Tensor:
        """Mean and log-variance ``[N, 2C, h, w]`` of frames ``[N, 3, H, W]``."""

    @abstractmethod
    def _decode_frames(self, latents: Tensor) -> Tensor:
        """Frames ``[N, 3, H, W]`` of ``z`` ``[N, C, h, w]``."""

    def _check_tile(self, tile_size: int) -> None:
        if tile_size < 1:
            raise UsageError("tile_size", expected="at least 1, or None", got=str(tile_size))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        ranges: ValueRanges = SYMMETRIC_RANGES,
        sample_posterior: bool = False,
        frames_per_chunk: int = 1,
        tile_size: int | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """The codec of a diffusers folder, or of a hub id (the only case that uses the network).

        Args:
            path: folder of the VAE, or of a pipeline with ``subfolder="vae"``, or a hub id.
            subfolder: where the VAE is in it.
            dtype: of the weights.
            ranges: see the class.
            sample_posterior: see the class.
            frames_per_chunk: see the class.
            tile_size: see the class.
            local_files_only: no network for a hub id either.

        Raises:
            WeightsError: nothing there that diffusers can read as safetensors.
        """
        vae_class = cls.vae_class()
        try:
            vae = vae_class.from_pretrained(
                str(path),
                subfolder=subfolder,
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=local_files_only or Path(path).exists(),
            )
        except (OSError, ValueError) as error:
            raise WeightsError(
                str(path),
                expected=f"a diffusers {vae_class.__name__} with safetensors weights",
                got=(str(error).splitlines() or [repr(error)])[0],
            ) from error
        return cls(
            vae,
            ranges=ranges,
            sample_posterior=sample_posterior,
            frames_per_chunk=frames_per_chunk,
            tile_size=tile_size,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int = 0) -> Self:
        """The codec that :meth:`to_config` described, with seeded random weights.

        Load weights afterwards with ``load_state_dict``; a VAE without trained weights is of use
        in tests only.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae = cls.vae_class()(**config["vae"])
        return cls(
            vae,
            ranges=ValueRanges.from_config(config["ranges"]),
            sample_posterior=config["sample_posterior"],
            frames_per_chunk=config["frames_per_chunk"],
            tile_size=config.get("tile_size"),
        )

    def encode(
        self, images: Tensor, *, content: Content = "rgb", generator: Generators | None = None
    ) -> Tensor:
        """Latents ``[B, C, F, h, w]``, float32; see :meth:`Codec.encode`.

        Raises:
            UsageError: images of another shape, dtype or size, or no generator although the codec
                samples its latents.
        """
        if self.sample_posterior and generator is None:
            raise UsageError(
                "generator",
                expected="a torch.Generator, because this codec samples its latents",
                got="None",
                remedy="Pass one, or build the codec with sample_posterior=False.",
            )
        video = images_to_video(images, self.spatial_factor)
        batch = len(video)
        moments = self._by_chunks(self._moments_of, self.ranges.inward(video, content))
        moments = rearrange(moments, "(b f) c h w -> b c f h w", b=batch).float()
        latents, log_variance = moments.chunk(2, dim=1)
        if self.sample_posterior and generator is not None:
            noise = draw_noise(latents.shape, generator=generator, device=latents.device)
            latents = latents + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: Tensor, *, content: Content = "rgb", clamp: bool = True) -> Tensor:
        """Images ``[B, 3, F, H, W]``, float32; see :meth:`Codec.decode`.

        Raises:
            UsageError: latents of another shape.
        """
        check_latents(latents, self.latent_channels)
        mean, std = self._statistics(latents)
        video = self._by_chunks(self._frames_of, latents.float() * std + mean)
        video = rearrange(video, "(b f) c h w -> b c f h w", b=len(latents))
        return self.ranges.outward(video.float(), content, clamp=clamp)

    def to_config(self) -> dict[str, Any]:
        """JSON-able settings; the weights are not included."""
        config = {key: _plain(value) for key, value in self._vae_config.items() if key[0] != "_"}
        return {
            "codec": self.name,
            "vae": config,
            "ranges": self.ranges.to_config(),
            "sample_posterior": self.sample_posterior,
            "frames_per_chunk": self.frames_per_chunk,
            "tile_size": self.tile_size,
        }

    @property
    def _vae_config(self) -> Mapping[str, Any]:
        config: Any = self.vae.config
        return dict(config)

    def _by_chunks(self, run: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
        """``run`` over all frames as images ``[B*F, C, H, W]``, a few at a time."""
        weight = next(self.vae.parameters())
        frames = rearrange(video, "b c f h w -> (b f) c h w").to(weight)
        return torch.cat([run(chunk) for chunk in frames.split(self.frames_per_chunk)])

    def _moments_of(self, frames: Tensor) -> Tensor:
        vae: Any = self.vae
        if not vae.use_tiling:
            return self._encode_frames(frames)
        moments: Tensor = vae.encode(frames.unsqueeze(2)).latent_dist.parameters
        return moments.squeeze(2)

    def _frames_of(self, latents: Tensor) -> Tensor:
        vae: Any = self.vae
        if not vae.use_tiling:
            return self._decode_frames(latents)
        frames: Tensor = vae.decode(latents.unsqueeze(2), return_dict=False)[0]
        return frames.squeeze(2)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value
