"""Maps and images to latents and back: the model path's steps on either side of sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seqtex_backbones.codecs.protocol import Codec, video_to_images
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.noise import Generators
from seqtex_geometry.maps import SurfaceMaps

from .silhouettes import Reference
from .surface_points import surface_points


def encode_geometry(
    maps: SurfaceMaps, codec: Codec, *, generator: Generators | None = None
) -> GeometryLatents:
    """Latents of position and normal maps, each ``[1, C, F, h, w]``.

    Args:
        maps: F pictures of the surface, background 0.
        codec: encodes frame by frame.
        generator: for codecs that sample their latents.
    """

    def encode(images: Tensor) -> Tensor:
        frames = images.permute(0, 3, 1, 2)
        return codec.encode(frames, content="geometry", generator=generator)

    position, normal = (m.permute(0, 3, 1, 2)[None] for m in (maps.position, maps.normal))
    mask = maps.mask[None, :, None]
    points = surface_points(position, normal, mask, factor=codec.spatial_factor)
    return GeometryLatents(
        position=encode(maps.position), normal=encode(maps.normal), points=points
    )


def reference_frames(references: Sequence[Reference], *, num_views: int, size: int) -> Tensor:
    """Views as the model is given them: references on black, ``[num_views, 3, size, size]``.

    Views without a reference are black; their content is never read.
    """
    device = references[0].rgb.device if references else torch.device("cpu")
    frames = torch.zeros(num_views, 3, size, size, device=device)
    for reference in references:
        frames[reference.view_index] = _resize(reference.rgb * reference.mask, size)
    return frames


def encode_references(
    references: Sequence[Reference],
    codec: Codec,
    *,
    num_views: int,
    size: int,
    generator: Generators | None = None,
) -> Tensor:
    """Clean latents of the views, ``[1, C, num_views, h, w]``; see ``reference_frames``."""
    frames = reference_frames(references, num_views=num_views, size=size)
    return codec.encode(frames, generator=generator)


def decode_images(latents: Tensor, codec: Codec) -> Tensor:
    """Images ``[F, 3, H, W]`` in [0, 1] of latents ``[1, C, F, h, w]``."""
    return video_to_images(codec.decode(latents)).float()


def _resize(image: Tensor, size: int) -> Tensor:
    """``[3, size, size]`` by an antialiased filter; enlarging is bicubic."""
    mode = "bilinear" if image.shape[-1] > size else "bicubic"
    resized = interpolate(image.unsqueeze(0), (size, size), mode=mode, antialias=True)
    return resized[0].clamp(0.0, 1.0)
