"""Reference pictures that are given as arrays or tensors, made pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

PictureArray: TypeAlias = "np.ndarray | Tensor"
_CHANNELS = (1, 3, 4)


def picture_of(source: object, *, view: str) -> Image.Image:
    """A PIL picture of an array ``[H, W]`` or ``[H, W, C]``, or of a tensor ``[C, H, W]``.

    Args:
        source: C is 3, 4 (with coverage) or 1; ``uint8``, or floating point in [0, 1]. A tensor may
            have a first dimension of 1.
        view: for messages.

    Raises:
        UsageError: another shape, dtype or range; or no picture at all.
    """
    from PIL import Image

    if isinstance(source, Tensor):
        pixels = _of_tensor(source.detach().cpu(), view)
    elif isinstance(source, np.ndarray):
        pixels = source[..., None] if source.ndim == 2 else source
        if pixels.ndim != 3 or pixels.shape[-1] not in _CHANNELS:
            raise _wrong(view, "an array [H, W] or [H, W, C], C of 1, 3 or 4", source.shape)
    else:
        raise _wrong(
            view,
            "a path, a PIL picture, an array [H, W, 3] or a tensor [3, H, W]",
            type(source).__name__,
        )
    bytes_ = _as_bytes(pixels, view)
    return Image.fromarray(bytes_[..., 0] if bytes_.shape[-1] == 1 else bytes_)


def _of_tensor(source: Tensor, view: str) -> np.ndarray:
    image = source[0] if source.ndim == 4 and source.shape[0] == 1 else source
    if image.ndim != 3 or image.shape[0] not in _CHANNELS:
        raise _wrong(view, "a tensor [C, H, W], C of 1, 3 or 4", tuple(source.shape))
    image = image.float() if image.dtype in (torch.bfloat16, torch.float16) else image
    pixels: np.ndarray = image.permute(1, 2, 0).numpy()
    return pixels


def _as_bytes(pixels: np.ndarray, view: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise _wrong(view, "uint8, or floating point in [0, 1]", pixels.dtype)
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # NaN fails too
        remedy = "Divide by 255." if high > 1 and low >= 0 else "Bring them to [0, 1]."
        raise _wrong(view, "values in [0, 1]", f"{low:g} to {high:g}", remedy)
    return np.ascontiguousarray((pixels * 255).round().astype(np.uint8))


def _wrong(view: str, expected: str, got: object, remedy: str = "") -> UsageError:
    return UsageError(f"reference {view}", expected=expected, got=str(got), remedy=remedy)
