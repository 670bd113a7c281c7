"""Configs of the named full-size models: backbone, codec and sizes."""

from __future__ import annotations

from typing import Any

from seqtex_backbones.codecs.protocol import SYMMETRIC_RANGES

from .config import ModelConfig, TextPadding

_NOT_TRAINED = (
    "A video model with an untrained texture branch: train it with `seqtex train`, or give weights "
    "that were trained for textures."
)


def _codec(name: str, **vae: Any) -> dict[str, Any]:
    """A video VAE of diffusers with the sizes of its class, apart from ``vae``."""
    return {
        "codec": name,
        "vae": vae,
        "ranges": SYMMETRIC_RANGES.to_config(),
        "sample_posterior": False,
        "frames_per_chunk": 1,
    }


def _config(name: str, *, codec: dict[str, Any], padding: TextPadding = "zero") -> ModelConfig:
    return ModelConfig(
        name=name,
        summary=_NOT_TRAINED,
        backbone={"name": name},
        codec=codec,
        text_padding=padding,
        dtype="bfloat16",
    )


WAN2_1_T2V_1_3B = _config("wan2.1-t2v-1.3b", codec=_codec("wan_vae"))
WAN2_1_T2V_14B = _config("wan2.1-t2v-14b", codec=_codec("wan_vae"))
WAN2_2_TI2V_5B = _config(
    "wan2.2-ti2v-5b",
    codec=_codec(
        "wan_vae",
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        is_residual=True,
        scale_factor_spatial=16,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    ),
)
"""The statistics of its latents are in the VAE's own config, which replaces this one on loading."""

COGVIDEOX_2B = _config("cogvideox-2b", codec=_codec("cogvideox_vae"), padding="kept")
COGVIDEOX_5B = _config(
    "cogvideox-5b", codec=_codec("cogvideox_vae", scaling_factor=0.7), padding="kept"
)

LTX_VIDEO_2B = _config("ltx-video-2b", codec=_codec("ltx_vae"), padding="cut")
_LTX_VAE_0_9_5 = _codec(
    "ltx_vae",
    block_out_channels=[128, 256, 512, 1024, 2048],
    down_block_types=["LTXVideo095DownBlock3D"] * 4,
    decoder_block_out_channels=[256, 512, 1024],
    layers_per_block=[4, 6, 6, 2, 2],
    decoder_layers_per_block=[5, 5, 5, 5],
    spatio_temporal_scaling=[True] * 4,
    decoder_spatio_temporal_scaling=[True] * 3,
    decoder_inject_noise=[False] * 4,
    downsample_type=["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    upsample_residual=[True] * 3,
    upsample_factor=[2, 2, 2],
    timestep_conditioning=True,
    spatial_compression_ratio=32,
    temporal_compression_ratio=8,
)
LTX_VIDEO_2B_0_9_5 = _config("ltx-video-2b-0.9.5", codec=_LTX_VAE_0_9_5, padding="cut")
LTX_VIDEO_13B = _config("ltx-video-13b", codec=_LTX_VAE_0_9_5, padding="cut")

COSMOS_PREDICT2_2B_TEXT2IMAGE = _config("cosmos-predict2-2b-text2image", codec=_codec("wan_vae"))
COSMOS_PREDICT2_14B_TEXT2IMAGE = _config("cosmos-predict2-14b-text2image", codec=_codec("wan_vae"))
