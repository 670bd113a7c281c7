"""Base colour images, decoded to one form."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from seqtex_core.errors import InputError

from ..mesh import ImageArray
from .lookup import find_beside

_REMEDY = "Save it again as PNG or JPEG, or remove the texture from the material."


def decode_image(data: bytes, subject: str) -> ImageArray:
    """Image file bytes as sRGB RGBA, ``[H, W, 4]`` uint8, row 0 on top.

    Args:
        data: bytes of an image file.
        subject: the image's name, for the message.

    Raises:
        InputError: the bytes are not an image that can be read whole.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                deep = np.asarray(image, dtype=np.float64)
                scale = 255.0 if deep.max(initial=0.0) <= 1.0 else 1.0 / 257.0
                eight = np.clip(np.rint(deep * scale), 0, 255).astype(np.uint8)
                return np.asarray(Image.fromarray(eight).convert("RGBA"), dtype=np.uint8).copy()
            return np.asarray(image.convert("RGBA"), dtype=np.uint8).copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"texture {subject}",
            expected="an image that can be read whole (PNG, JPEG, ...)",
            got=f"{len(data)} bytes that do not decode ({type(error).__name__})",
            remedy=_REMEDY,
        ) from error


def image_beside(folder: Path, name: str, subject: str) -> tuple[ImageArray, bytes]:
    """An image that a mesh names, and the bytes of its file.

    Args:
        folder: of the mesh.
        name: as the mesh spells it.
        subject: its name, and where it is named, for the message.

    Raises:
        InputError: it is not there, or cannot be read whole.
    """
    found = find_beside(folder, name)
    if found is None:
        raise missing_image(subject)
    data = found.read_bytes()
    return decode_image(data, subject), data


def missing_image(subject: str) -> InputError:
    """The error of an image that a mesh names and that is not there.

    Args:
        subject: the image's name, and where it is named.
    """
    tiles = "one for every tile of its UVs (UDIM)" if "<udim>" in subject.lower() else ""
    return InputError(
        f"texture {subject}",
        expected="an image file",
        got=tiles or "no such file",
        remedy="Put it beside the mesh, or remove the texture from the material.",
    )


def srgb_to_linear(color: np.ndarray) -> np.ndarray:
    """Linear values of sRGB-encoded ones in [0, 1] (IEC 61966-2-1)."""
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
