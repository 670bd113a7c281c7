"""Alpha that cuts out leaves and hair, moved from the author's UVs to new ones."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from ..asset import MeshAsset
from ..interpolate import triangle_areas, uv_fragments
from ..mesh import FloatArray, ImageArray
from ..rasterize import choose_rasterizer
from ..sampling import mip_levels, sample_uv
from ..seams import pad_seams

_OPAQUE = 255


def with_moved_alpha(
    texture: ImageArray, asset: MeshAsset, new_uvs: FloatArray, materials: Collection[int]
) -> ImageArray:
    """The texture with the alpha that its faces had, ``[H, W, 4]``.

    Args:
        texture: for ``new_uvs``, ``[H, W, 3 or 4]`` uint8. One that brings its own alpha is
            returned as it is, as is one of which nothing was cut out.
        asset: with the author's UVs and images.
        new_uvs: ``[T, 3, 2]``, v up.
        materials: whose alpha counts.
    """
    images = {index: asset.mesh.materials[index].base_color_image for index in materials}
    cut = {
        index: image[..., 3]
        for index, image in images.items()
        if image is not None and bool((image[..., 3] < _OPAQUE).any())
    }
    if texture.shape[2] == 4 or asset.mesh.face_uvs is None or not cut:
        return texture
    height, width = texture.shape[:2]
    uvs = torch.from_numpy(np.ascontiguousarray(new_uvs, np.float32))
    rasterizer = choose_rasterizer("auto", torch.device("cpu"))
    fragments = uv_fragments(rasterizer.face_idx_uv(uvs, height=height, width=width), uvs)
    old_uvs = torch.from_numpy(np.nan_to_num(asset.mesh.face_uvs))
    old = fragments.interpolate(old_uvs)
    footprint = _magnification(uvs, old_uvs)[fragments.face] / (height * width)
    material = torch.from_numpy(asset.mesh.face_material)[fragments.face]
    alpha = torch.ones(len(fragments.pixel))
    for index, values in cut.items():
        rows = torch.nonzero(material == index)[:, 0]
        levels = mip_levels(torch.from_numpy(values.copy()).float()[None] / _OPAQUE)
        level = 0.5 * torch.log2((footprint[rows] * values.size).clamp(min=1.0))
        alpha[rows] = sample_uv(levels, old[rows], level)[:, 0]
    image = fragments.image(alpha[:, None], 0.0).permute(0, 3, 1, 2)[0]
    hit = fragments.image(torch.ones_like(alpha), 0.0)[0] > 0
    padded = pad_seams(image, hit)[0]
    channel = (padded * _OPAQUE).round().clamp(0, _OPAQUE).byte().numpy()
    return np.concatenate([texture, channel[..., None]], axis=2)


def _magnification(new: Tensor, old: Tensor) -> Tensor:
    """Area of each face in the old layout by that in the new one, ``[T]``."""
    return triangle_areas(old) / triangle_areas(new).clamp(min=1e-12)
