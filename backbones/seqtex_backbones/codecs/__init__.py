"""Codecs: images and geometry maps to latents and back, frame by frame."""

from __future__ import annotations

from seqtex_core.lazy_exports import lazy_exports

_PUBLIC = {
    "CODECS": "protocol",
    "Codec": "protocol",
    "ValueRanges": "protocol",
    "codec_from_config": "protocol",
    "RELEASED_RANGES": "protocol",
    "SYMMETRIC_RANGES": "protocol",
    "video_to_images": "protocol",
    "CogVideoXVAECodec": "cogvideox_vae",
    "LTXVAECodec": "ltx_vae",
    "PixelCodec": "pixel",
    "WanVAECodec": "wan_vae",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
