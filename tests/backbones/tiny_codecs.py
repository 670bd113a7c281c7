"""Tiny VAEs with random weights, shared by tests."""

from __future__ import annotations

from typing import Any

from seqtex_backbones.codecs import SYMMETRIC_RANGES, CogVideoXVAECodec, WanVAECodec

TINY_VAE: dict[str, Any] = {
    "codec": "wan_vae",
    "vae": {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True],
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [0.5, 1.0, 2.0, 1.5],
    },
    "ranges": SYMMETRIC_RANGES.to_config(),
    "sample_posterior": False,
    "frames_per_chunk": 1,
}


TINY_COGVIDEOX_VAE: dict[str, Any] = {
    "codec": "cogvideox_vae",
    "vae": {
        "block_out_channels": [8, 8, 8],
        "down_block_types": ["CogVideoXDownBlock3D"] * 3,
        "up_block_types": ["CogVideoXUpBlock3D"] * 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.7,
    },
    "ranges": SYMMETRIC_RANGES.to_config(),
    "sample_posterior": False,
    "frames_per_chunk": 1,
}


def tiny_cogvideox_vae(**changes: Any) -> CogVideoXVAECodec:
    return CogVideoXVAECodec.from_config({**TINY_COGVIDEOX_VAE, **changes})


def tiny_vae(**changes: Any) -> WanVAECodec:
    return WanVAECodec.from_config({**TINY_VAE, **changes})
