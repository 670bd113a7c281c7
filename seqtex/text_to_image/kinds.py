"""Words of the text path, importable without torch."""

from __future__ import annotations

from typing import Literal

ControlKind = Literal["depth", "normal"]
CONTROL_KINDS: tuple[ControlKind, ...] = ("depth", "normal")

NormalConvention = Literal["bae", "opengl"]
NORMAL_CONVENTIONS: tuple[NormalConvention, ...] = ("bae", "opengl")

Offload = Literal["none", "model", "sequential"]
OFFLOADS: tuple[Offload, ...] = ("none", "model", "sequential")

ImageDtype = Literal["auto", "float32", "bfloat16", "float16"]
IMAGE_DTYPES: tuple[ImageDtype, ...] = ("auto", "float32", "bfloat16", "float16")
