"""The LTX-Video VAE as a codec, against diffusers' own way of encoding and decoding a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seqtex_backbones.codecs.ltx_vae import LTXVAECodec
from seqtex_backbones.codecs.protocol import codec_from_config
from seqtex_core.errors import UsageError
from seqtex_core.testing.harness import randomize

PLAIN: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
}
# As since 0.9.1: the decoder is told a level and adds noise inside.
NOISY = PLAIN | {
    "decoder_block_out_channels": (8, 16, 32),  # halved by every upsampling
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False, True, True, True),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}

# As since 0.9.5: rows and frames are halved by different blocks of the encoder.
LATER = NOISY | {
    "block_out_channels": (8, 8, 16, 16, 16),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, True, True),
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_inject_noise": (False, False, False, False),
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}


def codec(sizes: dict[str, Any], **options: Any) -> LTXVAECodec:
    from diffusers import AutoencoderKLLTXVideo

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLLTXVideo(**sizes)
    randomize(vae, seed=1)
    vae.latents_mean.copy_(torch.linspace(-1, 1, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 8))
    return LTXVAECodec(vae, **options)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("sizes", [PLAIN, NOISY, LATER], ids=["0.9.0", "0.9.1", "0.9.5"])
@torch.no_grad()
def test_frames_are_encoded_and_decoded_as_by_diffusers(sizes: dict[str, Any]) -> None:
    from diffusers import LTXPipeline

    made = codec(sizes)
    vae: Any = made.vae
    assert (made.latent_channels, made.spatial_factor) == (8, 32)
    given = images(1, 3, 2, 32, 64)
    latents = made.encode(given)
    assert latents.shape == (1, 8, 2, 1, 2)
    decoded = made.decode(latents, clamp=False)
    assert decoded.shape == given.shape
    for frame in range(2):
        posterior = vae.encode(given[:, :, frame : frame + 1] * 2 - 1).latent_dist
        one = LTXPipeline._normalize_latents(posterior.mode(), vae.latents_mean, vae.latents_std)
        # The same kernels on the same shapes; only the order of scale and shift may differ.
        torch.testing.assert_close(latents[:, :, frame : frame + 1], one, rtol=1e-5, atol=1e-6)
        raw = LTXPipeline._denormalize_latents(one, vae.latents_mean, vae.latents_std)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            want = vae.decode(raw, None if sizes is PLAIN else torch.zeros(1)).sample
        got = decoded[:, :, frame : frame + 1] * 2 - 1
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_noise_inside_the_decoder_is_repeatable_and_leaves_the_generator_alone() -> None:
    made = codec(NOISY)
    latents = made.encode(images(1, 3, 1, 32, 32))
    before = torch.get_rng_state()
    first = made.decode(latents)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    assert torch.equal(made.decode(latents), first)


@torch.no_grad()
def test_statistics_travel_with_the_weights(tmp_path: Path) -> None:
    made = codec(NOISY, sample_posterior=True, frames_per_chunk=2)
    copied = codec_from_config(made.to_config())
    assert isinstance(copied, LTXVAECodec)
    copied.load_state_dict(made.state_dict())
    given, generator = images(2, 3, 2, 32, 32), torch.Generator()
    latents = [c.encode(given, generator=generator.manual_seed(3)) for c in (made, copied)]
    assert torch.equal(*latents)
    made.vae.save_pretrained(tmp_path / "vae")  # type: ignore[operator]
    loaded = LTXVAECodec.from_pretrained(tmp_path, subfolder="vae", frames_per_chunk=2)
    assert torch.equal(loaded.decode(latents[0]), made.decode(latents[0]))


def test_tiles_are_refused() -> None:
    with pytest.raises(UsageError, match="tile_size"):
        codec(PLAIN, tile_size=4)
