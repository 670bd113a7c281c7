"""Pictures as the models of the ablation see them: grey around the surface, and coarser textures.

A model this small would spend much of its budget on drawing the black around the charts, which
nobody looks at. So there is grey, the zero of its latents, in training and measuring alike and for
all variants. A model that has learned nothing but zero paints everything grey.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from seqtex.data.sample import GeometryMaps, TextureImages

GREY = 0.5


def on_grey(maps: GeometryMaps, images: TextureImages) -> TextureImages:
    """The pictures with grey where there is no surface."""
    return replace(
        images,
        views=images.views + GREY * (1 - maps.view_mask),
        uv=images.uv + GREY * (1 - maps.uv_mask),
    )


def coarser(
    maps: GeometryMaps, images: TextureImages, factor: int
) -> tuple[GeometryMaps, TextureImages]:
    """The same object with a texture that has ``factor`` times fewer rows and columns.

    Texels with surface are averaged; a coarse texel has surface if any of its texels has.

    Args:
        maps: of the object.
        images: black where there is no surface.
        factor: 1 changes nothing.
    """
    if factor == 1:
        return maps, images
    mass = _blocks(maps.uv_mask, factor).sum(dim=-1)

    def averaged(values: Tensor) -> Tensor:
        return _blocks(values * maps.uv_mask, factor).sum(dim=-1) / mass.clamp(min=1)

    smaller = replace(
        maps,
        uv_position=averaged(maps.uv_position),
        uv_normal=averaged(maps.uv_normal),
        uv_mask=(mass > 0).to(maps.uv_mask),
        uv_visible=_blocks(maps.uv_visible, factor).any(dim=-1),
    )
    return smaller, replace(images, uv=averaged(images.uv))


def canonical(
    maps: GeometryMaps, images: TextureImages, factor: int = 1
) -> tuple[GeometryMaps, TextureImages]:
    """Both of the above: what a model sees."""
    maps, images = coarser(maps, images, factor)
    return maps, on_grey(maps, images)


def _blocks(values: Tensor, factor: int) -> Tensor:
    """``[C, H, W]`` to ``[C, H / factor, W / factor, factor^2]``."""
    rows = values.unflatten(-2, (-1, factor)).unflatten(-1, (-1, factor))
    blocks: Tensor = rows.transpose(-3, -2).flatten(-2)
    return blocks
