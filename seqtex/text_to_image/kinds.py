"""Words and file names of the text path, importable without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

ControlKind = Literal["depth", "normal"]
CONTROL_KINDS: tuple[ControlKind, ...] = ("depth", "normal")

NormalConvention = Literal["bae", "opengl"]
NORMAL_CONVENTIONS: tuple[NormalConvention, ...] = ("bae", "opengl")

Offload = Literal["none", "model", "sequential"]
OFFLOADS: tuple[Offload, ...] = ("none", "model", "sequential")

ImageDtype = Literal["auto", "float32", "bfloat16", "float16"]
IMAGE_DTYPES: tuple[ImageDtype, ...] = ("auto", "float32", "bfloat16", "float16")

CONTROL_FILES = ("depth", "normal", "mask")


def control_path(picture: Path, name: str) -> Path:
    """Where the control image ``name`` of a picture goes: ``<stem>_<name>.png`` beside it."""
    return picture.with_name(f"{picture.stem}_{name}.png")
