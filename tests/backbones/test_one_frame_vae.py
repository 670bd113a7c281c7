"""The VAEs' one-frame form against diffusers' own forward, on random weights of several sizes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from seqtex_backbones.codecs import CogVideoXVAECodec, WanVAECodec, cogvideox_frames, wan_frames
from seqtex_backbones.codecs.one_frame import convolve, convolve_upsampled, one_frame_kernel
from seqtex_core.errors import UsageError

WAN: dict[str, dict[str, Any]] = {
    "shallow": {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True],
    },
    "2.1": {
        "base_dim": 8,
        "z_dim": 4,
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [0.5, 1.0, 2.0, 1.5],
    },
    "2.1, time first": {"base_dim": 8, "z_dim": 4, "temperal_downsample": [True, True, False]},
    "2.2": {
        "base_dim": 8,
        "decoder_base_dim": 12,
        "z_dim": 6,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "temperal_downsample": [False, True, True],
        "scale_factor_spatial": 16,
    },
}
COGVIDEOX: dict[str, dict[str, Any]] = {
    "released": {
        "block_out_channels": [8, 16, 16, 32],
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
    },
    "quantised": {
        "block_out_channels": [8, 8, 16, 16],
        "latent_channels": 3,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "temporal_compression_ratio": 2,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    },
}
BLOCKS = {
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
}
ALL = [("wan", name) for name in WAN] + [("cogvideox", name) for name in COGVIDEOX]
RELEASED_WAN: dict[str, Any] = {}  # diffusers' defaults are the sizes of Wan 2.1
RELEASED_COGVIDEOX = {
    "block_out_channels": [128, 256, 256, 512],
    "latent_channels": 16,
    "layers_per_block": 3,
    **BLOCKS,
}


def make(family: str, name: str) -> tuple[Any, ModuleType]:
    """A VAE whose parameters all differ from their initial values, and its one-frame form."""
    torch.manual_seed(0)
    if family == "wan":
        vae: Any = AutoencoderKLWan(**WAN[name])
    else:
        vae = AutoencoderKLCogVideoX(**COGVIDEOX[name], **BLOCKS)
    for parameter in vae.parameters():
        parameter.data += 0.2 * parameter.data.std(correction=0) * torch.randn_like(parameter)
        if parameter.ndim != 5:
            parameter.data += 0.1 * torch.randn_like(parameter)
    form = wan_frames if family == "wan" else cogvideox_frames
    return vae.eval().requires_grad_(False), form


def images(family: str, name: str) -> Tensor:
    factor = 16 if name == "2.2" else 8
    return 2 * torch.rand(2, 3, 3 * factor, 4 * factor) - 1


@torch.no_grad()
def original(vae: Any, frames: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Moments and decoded frames by diffusers, one frame at a time."""
    moments = [vae.encode(x[None, :, None]).latent_dist.parameters[:, :, 0] for x in frames]
    decoded = [vae.decode(z[None, :, None]).sample[:, :, 0] for z in latents]
    return torch.cat(moments), torch.cat(decoded)


def small_latents(form: ModuleType, vae: Any, frames: Tensor) -> Tensor:
    """Latents whose pixels stay inside the range that the Wan VAE cuts to."""
    moments: Tensor = form.encode(vae, frames)
    return torch.randn_like(moments.chunk(2, dim=1)[0]) * 0.5


def rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact.double()).abs().max())


@pytest.mark.parametrize(("family", "name"), ALL)
def test_as_accurate_as_diffusers(family: str, name: str) -> None:
    """Against fp64: fp32 and bf16 errors like those of diffusers' own forward."""
    vae, form = make(family, name)
    frames = images(family, name)
    latents = small_latents(form, vae, frames)
    exact = original(vae.double(), frames.double(), latents.double())
    ours = form.encode(vae, frames.double()), form.decode(vae, latents.double())
    # fp64: rounding only; Wan's upsampling goes through fp32, half an ulp of numbers below 8
    assert error(ours[0], exact[0]) <= 1e-12
    assert error(ours[1], exact[1]) <= (5e-7 if family == "wan" else 1e-12)
    assert float((exact[1].abs() < 1).double().mean()) > 0.5  # not all cut to the range
    vae.float()
    for dtype in (torch.float32, torch.bfloat16):
        vae.to(dtype)
        x, z = frames.to(dtype), latents.to(dtype)
        rounded = original(vae.double(), x.double(), z.double())
        vae.to(dtype)
        plain = original(vae, x, z)
        for got, theirs, want in zip(
            (form.encode(vae, x), form.decode(vae, z)), plain, rounded, strict=True
        ):
            assert got.dtype == dtype
            # root mean squares, which scatter by a third over seeds; the largest scatter by 2.5
            assert rms(got - want) <= 1.5 * rms(theirs - want)


@pytest.mark.parametrize(("family", "name"), [("wan", "2.1"), ("cogvideox", "released")])
def test_gradients_reach_the_latents(family: str, name: str) -> None:
    vae, form = make(family, name)
    vae.double()
    latents = small_latents(form, vae, images(family, name).double())[:1]
    grads = []
    for run in (
        lambda z: form.decode(vae, z),
        lambda z: vae.decode(z[:, :, None]).sample[:, :, 0],
    ):
        z = latents.clone().requires_grad_()
        direction = torch.linspace(-1, 1, 3 * 24 * 32, dtype=torch.float64).view(1, 3, 24, 32)
        (run(z) * direction).sum().backward()
        assert z.grad is not None
        grads.append(z.grad)
    scale = float(grads[1].abs().max())
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6 * scale)  # fp32 upsampling


@given(
    taps=st.integers(1, 3),
    spatial=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    history=st.sampled_from(["zeros", "repeat"]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_kernels_are_causal_convolutions_of_one_frame(
    taps: int, spatial: int, size: tuple[int, int], history: Any
) -> None:
    generator = torch.Generator().manual_seed(taps)
    weight = torch.randn(4, 3, taps, spatial, spatial, generator=generator, dtype=torch.float64)
    x, bias = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    video = x[:, :, None]
    before = torch.zeros_like(video) if history == "zeros" else video
    padded = torch.cat([before] * (taps - 1) + [video], dim=2)
    want = functional.conv3d(padded, weight, bias, padding=(0, spatial // 2, spatial // 2))[:, :, 0]
    got = convolve(x, one_frame_kernel(weight, history), bias)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_taps_in_half_precision_are_rounded_once() -> None:
    weight = torch.randn(8, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    kernel = one_frame_kernel(weight, "repeat")
    assert torch.equal(kernel, weight.double().sum(2).bfloat16())
    assert not torch.equal(kernel, weight[:, :, 0] + weight[:, :, 1] + weight[:, :, 2])


@given(
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    batch=st.integers(1, 2),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_upsampled_convolution_without_upsampling(
    channels: tuple[int, int], size: tuple[int, int], batch: int
) -> None:
    conv = nn.Conv2d(*channels, 3, padding=1).double()
    x = torch.randn(batch, channels[0], *size, dtype=torch.float64)
    want = conv(functional.interpolate(x, scale_factor=2.0, mode="nearest-exact"))
    torch.testing.assert_close(convolve_upsampled(x, conv), want, rtol=0, atol=1e-12)


def factor_of(name: str) -> int:
    return {"shallow": 4, "2.2": 16}.get(name, 8)


@pytest.mark.parametrize("name", WAN)
@torch.no_grad()
def test_tiles_change_nothing(name: str) -> None:
    vae, _ = make("wan", name)
    rows, columns, factor = 24, 5, factor_of(name)
    whole, tiled = WanVAECodec(vae.double()), WanVAECodec(vae, tile_size=9)
    assert wan_frames.decoder_reach(vae) + 9 < rows, "no tile would be smaller than the frame"
    frames = 2 * torch.rand(1, 3, rows * factor, columns * factor, dtype=torch.float64) - 1
    latents = torch.randn(1, whole.latent_channels, rows, columns, dtype=torch.float64) * 0.5
    # every value is the same sum in fp64, perhaps in another blocking
    want = whole._encode_frames(frames)
    torch.testing.assert_close(tiled._encode_frames(frames), want, rtol=0, atol=1e-12)
    want = whole._decode_frames(latents)
    torch.testing.assert_close(tiled._decode_frames(latents), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["shallow", "2.1", "2.2"])
@torch.no_grad()
def test_reach_is_how_far_a_change_is_seen(name: str) -> None:
    vae, _ = make("wan", name)
    vae.double()
    factor, centre = factor_of(name), 15
    width = vae.decoder.conv_in.out_channels
    start = torch.randn(1, width, 2 * centre + 1, 3, dtype=torch.float64)
    moved = start.clone()
    moved[:, :, centre] += 100
    seen = wan_frames.decode_last(vae, moved) != wan_frames.decode_last(vae, start)
    rows = seen.any(dim=1).any(dim=-1)[0].nonzero() // factor
    assert int((rows - centre).abs().max()) == wan_frames.decoder_reach(vae)
    frames = torch.rand(1, 3, (2 * centre + 1) * factor, factor, dtype=torch.float64)
    far = 0
    for offset in (0, factor - 1):
        moved = frames.clone()
        moved[:, :, centre * factor + offset] += 100
        seen = wan_frames.encode_first(vae, moved) != wan_frames.encode_first(vae, frames)
        rows = seen.any(dim=1).any(dim=-1)[0].nonzero()
        far = max(far, int((rows - centre).abs().max()))
    # above and below are counted alike, although a halving looks one pixel further down
    assert far <= wan_frames.encoder_reach(vae) <= far + 1


def test_a_vae_with_diffusers_tiling_is_left_to_diffusers() -> None:
    vae, _ = make("wan", "2.1")
    codec, frames = WanVAECodec(vae), torch.rand(2, 3, 64, 64)
    plain = codec.encode(frames)
    vae.enable_tiling(32, 32, 24, 24)
    latents = codec.encode(frames)
    assert float((latents - plain).abs().max()) > 1e-4
    with torch.no_grad():
        raw = vae.encode((frames * 2 - 1)[:1, :, None]).latent_dist.mode()
        decoded = vae.decode(raw).sample[:, :, 0]
    mean, std = codec._statistics(raw)
    torch.testing.assert_close(latents[:, :, :1], (raw - mean) / std, rtol=0, atol=1e-6)
    got = codec.decode((raw - mean) / std)[:, :, 0]
    torch.testing.assert_close(got, decoded * 0.5 + 0.5, rtol=0, atol=2e-5)  # tiles of new latents


def test_options_and_names_of_weights() -> None:
    vae, _ = make("wan", "2.1")
    codec = WanVAECodec(vae, tile_size=5)
    assert set(codec.state_dict()) == {f"vae.{key}" for key in vae.state_dict()}
    config = codec.to_config()
    assert WanVAECodec.from_config(config).tile_size == 5
    del config["tile_size"]  # written before there were tiles
    assert WanVAECodec.from_config(config).tile_size is None
    with pytest.raises(UsageError, match="tile_size"):
        WanVAECodec(vae, tile_size=0)
    cogvideox, _ = make("cogvideox", "released")
    with pytest.raises(UsageError, match="whole frames"):
        CogVideoXVAECodec(cogvideox, tile_size=8)


def teraflop(run: Any) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


@pytest.mark.parametrize(
    ("kind", "form", "config", "limit", "least"),
    [
        (AutoencoderKLWan, wan_frames, RELEASED_WAN, 19.7, 2.7),
        (AutoencoderKLCogVideoX, cogvideox_frames, RELEASED_COGVIDEOX, 36.8, 2.9),
    ],
    ids=["wan", "cogvideox"],
)
def test_flop_of_a_texture(
    kind: Any, form: ModuleType, config: dict[str, Any], limit: float, least: float
) -> None:
    """Position and normal maps, one picture, four views and a texture of 512 and 1024 pixels."""
    with torch.device("meta"):
        vae: Any = kind(**config).eval()

    def total(encode: Any, decode: Any) -> float:
        def cost(run: Any, channels: int, side: int) -> float:
            return teraflop(lambda: run(torch.empty(1, channels, side, side, device="meta")))

        return (
            9 * cost(encode, 3, 512)  # twice four views, and the reference
            + 2 * cost(encode, 3, 1024)
            + 4 * cost(decode, 16, 64)
            + cost(decode, 16, 128)
        )

    ours = total(lambda x: form.encode(vae, x), lambda z: form.decode(vae, z))
    theirs = total(lambda x: vae.encode(x[:, :, None]), lambda z: vae.decode(z[:, :, None]))
    assert ours <= limit
    assert theirs / ours >= least
    if kind is AutoencoderKLWan:
        assert theirs == pytest.approx(53.8, abs=0.1)  # counted elsewhere
