"""The colours of a mesh's own materials at points of its surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .interpolate import Fragments
from .mesh import Material, Mesh
from .sampling import linear_to_srgb, mip_levels, sample_uv, srgb_to_linear
from .surface import SurfaceTensors


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePaint:
    """Every texture that a picture may need, with mip levels; made once for many pictures.

    Args:
        layer: by which entry of ``layers`` and ``factors`` each face is painted, ``[T]``.
        layers: mip levels of a texture, or ``None`` where there is none.
        factors: linear colour, ``[3]``, or ``None`` where it changes nothing.
        vertex_colors: linear, ``[V, 3]``, or ``None``.
        painted: number of leading layers that replace materials and are not tinted.
    """

    layer: Tensor
    layers: list[list[Tensor] | None]
    factors: list[Tensor | None]
    vertex_colors: Tensor | None
    painted: int

    @classmethod
    def of(
        cls,
        mesh: Mesh,
        textures: Sequence[Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> SurfacePaint:
        """The paint of ``mesh``.

        Args:
            mesh: with its materials.
            textures: one per texture set, ``[3, h, w]``, which replace the material of their faces.
            device: where the work is done.
        """
        painted = [] if textures is None else [mip_levels(item[:3].float()) for item in textures]
        images: dict[int, list[Tensor]] = {}
        layers: list[list[Tensor] | None] = list(painted)
        for material in mesh.materials:
            image = material.base_color_image
            if image is not None and id(image) not in images:
                texture = torch.tensor(image[..., :3], device=device).permute(2, 0, 1)
                images[id(image)] = mip_levels(texture.float() / 255.0)
            layers.append(None if image is None else images[id(image)])
        layer = torch.from_numpy(mesh.face_material).to(device) + len(painted)
        if textures is not None:
            texture_set = torch.from_numpy(mesh.face_texture_set).to(device)
            layer = torch.where(texture_set >= 0, texture_set, layer)
        factors: list[Tensor | None] = [None] * len(painted)
        factors += [_factor(item, device) for item in mesh.materials]
        colors = mesh.vertex_colors
        return cls(
            layer=layer,
            layers=layers,
            factors=factors,
            vertex_colors=None if colors is None else torch.tensor(colors[:, :3], device=device),
            painted=len(painted),
        )

    def colors(self, surface: SurfaceTensors, fragments: Fragments, footprint: Tensor) -> Tensor:
        """Colours (sRGB) of points on the surface, ``[N, 3]``.

        Args:
            surface: of the mesh, with the UVs that its materials are laid out in.
            fragments: N points.
            footprint: area in the UV square that a point stands for, ``[N]``; 0 reads textures at
                full size.
        """
        colors = torch.ones(len(fragments.pixel), 3, device=surface.device)
        uvs, has_uvs = _uv_lookup(surface, fragments)
        layer = self.layer[fragments.face]
        for index, (levels, factor) in enumerate(zip(self.layers, self.factors, strict=True)):
            rows = torch.nonzero(layer == index)[:, 0]
            if rows.numel() == 0:
                continue
            values = colors[rows]
            if levels is not None:
                sampled = sample_uv(levels, uvs[rows], _mip_level(levels[0], footprint[rows]))
                values = torch.where(has_uvs[rows, None], sampled, values)
            if factor is not None:
                values = linear_to_srgb(srgb_to_linear(values) * factor)
            colors = colors.index_copy(0, rows, values)
        if self.vertex_colors is None:
            return colors
        tint = fragments.interpolate(self.vertex_colors, surface.faces)
        tinted = linear_to_srgb(srgb_to_linear(colors) * tint)
        return torch.where((layer >= self.painted)[:, None], tinted, colors)


def _factor(material: Material, device: torch.device | str) -> Tensor | None:
    """Linear base colour factor, ``[3]``; ``None`` if it changes nothing."""
    factor = material.base_color_factor[:3]
    return None if factor == (1.0, 1.0, 1.0) else torch.tensor(factor, device=device)


def _uv_lookup(surface: SurfaceTensors, fragments: Fragments) -> tuple[Tensor, Tensor]:
    """UVs ``[N, 2]`` (0 where a face has none) and whether it has."""
    count, device = len(fragments.pixel), surface.device
    if surface.face_uvs is None:
        nothing = torch.zeros(count, device=device)
        return nothing[:, None].expand(count, 2), nothing.bool()
    has_uvs = torch.isfinite(surface.face_uvs).all(-1).all(-1)
    face_uvs = torch.where(has_uvs[:, None, None], surface.face_uvs, 0.0)
    return fragments.interpolate(face_uvs), has_uvs[fragments.face]


def _mip_level(texture: Tensor, footprint: Tensor) -> Tensor:
    """Mip level at which one texel covers about one point's area, ``[N]``."""
    texels = footprint * texture.shape[-1] * texture.shape[-2]
    return 0.5 * torch.log2(texels.clamp(min=1.0))
