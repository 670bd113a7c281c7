"""Textures as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from seqtex_core.errors import UsageError

from ..mesh import ImageArray


def check_textures(textures: Sequence[ImageArray], count: int) -> None:
    """Refuse textures that cannot be written.

    Args:
        textures: one per texture set, ``[H, W, 3 or 4]`` uint8, row 0 on top.
        count: number of texture sets.

    Raises:
        UsageError: another number of textures, dtype or shape.
    """
    if len(textures) != count:
        raise UsageError(
            "textures", expected=f"{count}, one per texture set", got=str(len(textures))
        )
    for index, texture in enumerate(textures):
        good = texture.ndim == 3 and texture.shape[2] in (3, 4) and texture.size > 0
        if not good or texture.dtype != np.uint8:
            raise UsageError(
                f"textures[{index}]",
                expected="uint8 [H, W, 3] or [H, W, 4]",
                got=f"{texture.dtype} {list(texture.shape)}",
            )


def encode_png(texture: ImageArray) -> bytes:
    """PNG file bytes; the same pixels give the same bytes."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(texture)).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def with_alpha_of(texture: ImageArray, image: ImageArray | None) -> ImageArray:
    """The texture with the alpha of the image it replaces, ``[H, W, 4]``.

    Leaves and hair are often cut out by alpha; a texture without alpha must not fill them in. A
    texture that brings its own alpha, or replaces an opaque image, is returned as it is.
    """
    from PIL import Image

    if texture.shape[2] == 4 or image is None or bool((image[..., 3] == 255).all()):
        return texture
    size = (texture.shape[1], texture.shape[0])
    alpha = Image.fromarray(np.ascontiguousarray(image[..., 3]))
    resized = np.asarray(alpha.resize(size, Image.Resampling.BILINEAR))
    return np.concatenate([texture, resized[..., None]], axis=2)
