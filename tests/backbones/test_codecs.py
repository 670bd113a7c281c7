"""Codecs: round trips, ranges, frames by themselves, configuration, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codecs import TINY_COGVIDEOX_VAE, TINY_VAE, tiny_cogvideox_vae, tiny_vae

from seqtex_backbones.codecs import (
    CODECS,
    RELEASED_RANGES,
    SYMMETRIC_RANGES,
    CogVideoXVAECodec,
    PixelCodec,
    ValueRanges,
    WanVAECodec,
    codec_from_config,
    video_to_images,
)
from seqtex_backbones.codecs.pixel import colour_basis, cosine_basis
from seqtex_backbones.codecs.video_vae import VideoVAECodec
from seqtex_core.errors import UsageError, WeightsError

# float32 sums of up to 192 products below 1: rounding 6e-8 sqrt(192) each way, times four
ROUND_TRIP = 4e-6


def images(frames: int = 4, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(1))


@given(
    patch_size=st.sampled_from([1, 2, 4, 8]),
    frames=st.integers(1, 3),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    released=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_pixel_round_trip_is_lossless(
    patch_size: int, frames: int, cells: tuple[int, int], released: bool
) -> None:
    codec = PixelCodec(
        patch_size=patch_size, ranges=RELEASED_RANGES if released else SYMMETRIC_RANGES
    )
    original = images(frames, cells[0] * patch_size, cells[1] * patch_size)
    latents = codec.encode(original)
    assert latents.shape == (1, 3 * patch_size**2, frames, *cells)
    torch.testing.assert_close(
        video_to_images(codec.decode(latents)), original, rtol=0, atol=ROUND_TRIP
    )
    geometry = original * 2 - 1
    back = codec.decode(codec.encode(geometry, content="geometry"), content="geometry")
    torch.testing.assert_close(video_to_images(back), geometry, rtol=0, atol=ROUND_TRIP)


@pytest.mark.parametrize("patch_size", [1, 2, 4, 8, 16])
def test_pixel_basis_is_orthonormal(patch_size: int) -> None:
    for basis in (
        PixelCodec(patch_size=patch_size).basis,
        cosine_basis(patch_size),
        colour_basis(),
    ):
        eye = torch.eye(len(basis), dtype=torch.float64)
        torch.testing.assert_close(basis @ basis.T, eye, rtol=0, atol=1e-13)  # float64 sums


@given(patch_size=st.sampled_from([2, 4, 8]), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_pixel_codec_keeps_energy(patch_size: int, seed: int) -> None:
    noise = torch.randn(3, 3, 16, 32, generator=torch.Generator().manual_seed(seed))
    latents = PixelCodec(patch_size=patch_size).encode(noise, content="geometry")
    torch.testing.assert_close(latents.square().sum(), noise.square().sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("patch_size", [2, 4])
def test_white_noise_in_latents_is_white_noise_in_pixels(patch_size: int) -> None:
    """Seen through patches that lie half a patch further, where only white noise stays white."""
    plain = PixelCodec(patch_size=patch_size)
    channels, half = plain.latent_channels, patch_size // 2
    noise = torch.randn(8, channels, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def shifted_covariance(codec: PixelCodec) -> torch.Tensor:
        pixels = codec.decode(noise, content="geometry", clamp=False)
        moved = plain.encode(pixels.roll((half, half), dims=(-2, -1)), content="geometry")
        rows = moved.transpose(0, 1).reshape(channels, -1)
        return rows @ rows.T / rows.shape[1]

    # entries of a sample covariance deviate by up to sqrt(2 / n), n = 8192; six deviations
    limit = 6 * (2 / 8192) ** 0.5
    error = (shifted_covariance(plain) - torch.eye(channels)).abs().max()
    assert float(error) < limit
    uneven = PixelCodec(patch_size=patch_size, latents_std=[2.0] * 3 + [1.0] * (channels - 3))
    error = (shifted_covariance(uneven) - torch.eye(channels)).abs().max()
    assert float(error) > 2 * limit


def test_pixel_channels_run_from_low_to_high_frequency() -> None:
    codec = PixelCodec(patch_size=4)
    flat = codec.encode(torch.full((1, 3, 8, 8), 0.75))
    # grey 0.75 is 0.5 in [-1, 1]: brightness is 0.5 sqrt(3) times 4 pixels, all else 0
    wanted = torch.zeros_like(flat)
    wanted[:, 0] = 0.5 * 3**0.5 * 4
    torch.testing.assert_close(flat, wanted, rtol=0, atol=ROUND_TRIP)
    across = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    for smooth in (across, across.mT):
        energy = codec.encode(smooth).square().sum(dim=(0, 2, 3, 4))
        # beyond brightness, a ramp of 4 pixels is 200 times stronger in the first cosine
        assert bool(energy[3:9].sum() > 100 * energy[9:].sum())


def test_pixel_statistics_normalise_and_come_back() -> None:
    std = [1.0 + 0.1 * channel for channel in range(12)]
    codec = PixelCodec(patch_size=2, latents_mean=0.5, latents_std=std)
    plain = PixelCodec(patch_size=2)
    scale = torch.tensor(std).view(1, -1, 1, 1, 1)
    torch.testing.assert_close(
        codec.encode(images()), (plain.encode(images()) - 0.5) / scale, rtol=0, atol=1e-6
    )
    back = video_to_images(codec.decode(codec.encode(images())))
    torch.testing.assert_close(back, images(), rtol=0, atol=ROUND_TRIP)


def test_pixel_gradients_are_the_transpose() -> None:
    codec = PixelCodec(patch_size=4)
    x = (images(1, 8, 8) * 2 - 1).requires_grad_()
    latents = codec.encode(x, content="geometry")
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    (latents * direction).sum().backward()
    wanted = codec.decode(direction, content="geometry", clamp=False)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, video_to_images(wanted), rtol=0, atol=ROUND_TRIP)


@pytest.mark.parametrize(
    "codec",
    [PixelCodec(patch_size=4), tiny_vae(), tiny_cogvideox_vae()],
    ids=["pixel", "wan_vae", "cogvideox_vae"],
)
class TestEveryCodec:
    def test_both_layouts_agree(self, codec: PixelCodec | VideoVAECodec) -> None:
        frames = images()
        as_video = frames.transpose(0, 1)[None]
        assert torch.equal(codec.encode(frames), codec.encode(as_video))
        assert codec.encode(frames).shape == (
            1,
            codec.latent_channels,
            4,
            16 // codec.spatial_factor,
            24 // codec.spatial_factor,
        )

    def test_batched_is_one_by_one(self, codec: PixelCodec | VideoVAECodec) -> None:
        batch = torch.stack([images(), images().flip(0)]).transpose(1, 2)
        latents = codec.encode(batch)
        pixels = codec.decode(latents)
        for b in range(2):
            for f in range(4):
                one = codec.encode(batch[b : b + 1, :, f : f + 1])
                # float32 convolutions in another blocking: a few ulps of numbers below 4
                torch.testing.assert_close(one[0, :, 0], latents[b, :, f], rtol=0, atol=2e-6)
                back = codec.decode(latents[b : b + 1, :, f : f + 1])
                torch.testing.assert_close(back[0, :, 0], pixels[b, :, f], rtol=0, atol=2e-6)

    def test_configuration_survives_json(self, codec: PixelCodec | VideoVAECodec) -> None:
        config = json.loads(json.dumps(codec.to_config()))
        again = codec_from_config(config)
        assert again.to_config() == codec.to_config()
        assert torch.equal(again.encode(images()), codec.encode(images()))

    def test_sizes_and_shapes_that_do_not_fit_are_refused(
        self, codec: PixelCodec | VideoVAECodec
    ) -> None:
        with pytest.raises(UsageError, match="multiples of 4"):
            codec.encode(images(1, 16, 18))
        with pytest.raises(UsageError, match="F, 3, H, W"):
            codec.encode(torch.rand(1, 4, 16, 16))
        with pytest.raises(UsageError, match="float"):
            codec.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        with pytest.raises(UsageError, match=f"{codec.latent_channels}, F"):
            codec.decode(torch.zeros(1, 5, 1, 4, 4))
        with pytest.raises(UsageError, match="geometry"):
            codec.encode(images(), content="depth")  # type: ignore[arg-type]

    def test_decoded_colours_stay_in_range(self, codec: PixelCodec | VideoVAECodec) -> None:
        latents = 5 * torch.randn(1, codec.latent_channels, 1, 4, 4)
        colours = codec.decode(latents)
        assert 0.0 <= float(colours.min()) < float(colours.max()) <= 1.0


def test_wan_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    one, all_at_once = tiny_vae(), tiny_vae(frames_per_chunk=8)
    latents = one.encode(images())
    three, seen = tiny_vae(frames_per_chunk=3), []
    through = three._encode_frames
    monkeypatch.setattr(three, "_encode_frames", lambda x: seen.append(len(x)) or through(x))
    three.encode(images(4))
    assert seen == [3, 1]
    # as above: another blocking of float32 convolutions
    torch.testing.assert_close(all_at_once.encode(images()), latents, rtol=0, atol=2e-6)
    torch.testing.assert_close(all_at_once.decode(latents), one.decode(latents), rtol=0, atol=2e-6)


def test_wan_latents_are_those_of_diffusers_normalised() -> None:
    codec = tiny_vae()
    frame = images(1)
    vae: Any = codec.vae
    raw = vae.encode((frame * 2 - 1)[:, :, None]).latent_dist.mode()
    mean = torch.tensor(TINY_VAE["vae"]["latents_mean"]).view(1, -1, 1, 1, 1)
    std = torch.tensor(TINY_VAE["vae"]["latents_std"]).view(1, -1, 1, 1, 1)
    latents = codec.encode(frame)
    torch.testing.assert_close(latents, (raw - mean) / std, rtol=0, atol=1e-6)
    decoded = vae.decode(raw).sample[:, :, 0]
    torch.testing.assert_close(
        video_to_images(codec.decode(latents)), decoded * 0.5 + 0.5, rtol=0, atol=2e-6
    )


def test_cogvideox_latents_are_those_of_diffusers_scaled(tmp_path: Path) -> None:
    frame = images(1)
    for factor in (0.7, 1.15258426):
        settings = {**TINY_COGVIDEOX_VAE["vae"], "scaling_factor": factor}
        codec = tiny_cogvideox_vae(vae=settings, frames_per_chunk=3)
        vae: Any = codec.vae
        raw = vae.encode((frame * 2 - 1)[:, :, None]).latent_dist.mode()
        latents = codec.encode(frame)
        # float32: about ten convolutions, in the sum of taps first, of numbers below 2
        torch.testing.assert_close(latents, raw * factor, rtol=0, atol=4e-6)
        decoded = vae.decode(raw).sample[:, :, 0]
        torch.testing.assert_close(
            video_to_images(codec.decode(latents, clamp=False)),
            decoded * 0.5 + 0.5,
            rtol=0,
            atol=4e-6,
        )
    vae.save_pretrained(tmp_path / "vae", safe_serialization=True)
    again = CogVideoXVAECodec.from_pretrained(tmp_path, subfolder="vae")
    assert torch.equal(again.encode(frame), latents)


def test_wan_first_latent_of_a_video_is_the_latent_of_its_first_frame() -> None:
    codec = tiny_vae()
    vae: Any = codec.vae
    frames = images(5)
    video = vae.encode((frames * 2 - 1).transpose(0, 1)[None]).latent_dist.mode()[:, :, :1]
    single = vae.encode((frames[:1] * 2 - 1)[:, :, None]).latent_dist.mode()
    torch.testing.assert_close(video, single, rtol=0, atol=2e-6)  # as above


def test_ranges_are_what_the_vae_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 8, 2).repeat(1, 1, 1, 4)
    for ranges, rgb, geometry in [
        (SYMMETRIC_RANGES, (-1.0, 1.0), (-1.0, 1.0)),
        (RELEASED_RANGES, (0.0, 1.0), (0.0, 1.0)),
        (ValueRanges(rgb=(0.0, 1.0), geometry=(-1.0, 1.0)), (0.0, 1.0), (-1.0, 1.0)),
    ]:
        codec = WanVAECodec(tiny_vae().vae, ranges=ranges)
        encode, seen = codec._encode_frames, []

        def probe(frames: torch.Tensor, encode: Any = encode, seen: Any = seen) -> torch.Tensor:
            seen.append((float(frames.min()), float(frames.max())))
            moments: torch.Tensor = encode(frames)
            return moments

        monkeypatch.setattr(codec, "_encode_frames", probe)
        codec.encode(colours)
        codec.encode(colours * 2 - 1, content="geometry")
        assert seen == [rgb, geometry]


def test_released_ranges_cut_dark_output_to_zero() -> None:
    symmetric, released = tiny_vae(), tiny_vae(ranges=RELEASED_RANGES.to_config())
    latents = torch.randn(1, 4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    raw = symmetric.decode(latents) * 2 - 1
    torch.testing.assert_close(released.decode(latents), raw.clamp(0, 1), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="low < high"):
        ValueRanges(rgb=(1.0, 0.0))


def test_sampled_latents_need_a_generator_and_follow_it() -> None:
    codec = tiny_vae(sample_posterior=True)
    with pytest.raises(UsageError, match="generator"):
        codec.encode(images())

    def run(value: int) -> torch.Tensor:
        return codec.encode(images(), generator=torch.Generator().manual_seed(value))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    vae: Any = codec.vae
    posterior = vae.encode((images(1) * 2 - 1)[:, :, None]).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
    drawn = codec.encode(images(1), generator=torch.Generator().manual_seed(1))
    mean = torch.tensor(TINY_VAE["vae"]["latents_mean"]).view(1, -1, 1, 1, 1)
    std = torch.tensor(TINY_VAE["vae"]["latents_std"]).view(1, -1, 1, 1, 1)
    wanted = (posterior.mean + posterior.std * noise - mean) / std
    torch.testing.assert_close(drawn, wanted, rtol=0, atol=2e-6)  # a few ulps of numbers below 8


def test_wan_from_a_folder(tmp_path: Path) -> None:
    codec = tiny_vae()
    vae: Any = codec.vae
    vae.save_pretrained(tmp_path / "model" / "vae", safe_serialization=True)
    again = WanVAECodec.from_pretrained(
        tmp_path / "model", subfolder="vae", ranges=RELEASED_RANGES, sample_posterior=True
    )
    same = {key: torch.equal(x, again.state_dict()[key]) for key, x in codec.state_dict().items()}
    assert same
    assert all(same.values())
    assert again.ranges == RELEASED_RANGES
    assert again.sample_posterior
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_pickled_or_missing_weights_are_refused(tmp_path: Path) -> None:
    vae: Any = tiny_vae().vae
    vae.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert list((tmp_path / "pickled").glob("*.bin"))
    (tmp_path / "empty").mkdir()
    for folder in ("pickled", "empty"):
        with pytest.raises(WeightsError, match="safetensors"):
            WanVAECodec.from_pretrained(tmp_path / folder)


def test_seeded_weights_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = tiny_vae(), WanVAECodec.from_config(TINY_VAE, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(first.encode(images()), second.encode(images()))


@pytest.mark.parametrize(
    "options",
    [{"patch_size": 3}, {"latents_std": 0.0}, {"latents_mean": [0.0, 1.0]}],
)
def test_pixel_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PixelCodec(**options)


def test_codecs_by_name() -> None:
    assert CODECS.names() == ["cogvideox_vae", "ltx_vae", "pixel", "wan_vae"]
    with pytest.raises(UsageError, match="codec name"):
        codec_from_config({"codec": "pixels"})
    with pytest.raises(UsageError, match="codec name"):
        codec_from_config({})
    with pytest.raises(UsageError, match="frames_per_chunk"):
        tiny_vae(frames_per_chunk=0)
    with pytest.raises(UsageError, match="video"):
        video_to_images(torch.zeros(2, 3, 1, 4, 4))
