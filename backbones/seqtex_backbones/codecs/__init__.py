"""Codecs: images and geometry maps to latents and back, frame by frame."""

from __future__ import annotations

from importlib import import_module

_PUBLIC = {
    "CODECS": "protocol",
    "Codec": "protocol",
    "ValueRanges": "protocol",
    "codec_from_config": "protocol",
    "RELEASED_RANGES": "protocol",
    "SYMMETRIC_RANGES": "protocol",
    "video_to_images": "protocol",
    "PixelCodec": "pixel",
    "WanVAECodec": "wan_vae",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
