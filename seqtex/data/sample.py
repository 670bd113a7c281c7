"""Training samples: geometry maps of one object, and fresh textures painted onto them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .record import GeometryRecord, RecordSizes
from .textures.lighting import Lighting, draw_lighting, shaded
from .textures.points import SurfacePoints
from .textures.solid import SolidTexture, draw_solid_texture


@dataclass(frozen=True, kw_only=True, eq=False)
class GeometryMaps:
    """Maps of one object, as the pipeline makes them.

    Args:
        view_position: world positions averaged over the pixel, ``[F, 3, h, w]``; background 0.
        view_normal: interpolated normals, likewise.
        view_mask: covered share of the pixel, ``[F, 1, h, w]``.
        uv_position: ``[3, H, W]``, not antialiased; background 0.
        uv_normal: ``[3, H, W]``.
        uv_mask: 0 or 1, ``[1, H, W]``.
        uv_visible: texels that view i sees, ``[F, H, W]`` bool.
    """

    view_position: Tensor
    view_normal: Tensor
    view_mask: Tensor
    uv_position: Tensor
    uv_normal: Tensor
    uv_mask: Tensor
    uv_visible: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TextureImages:
    """One texture of one object.

    Args:
        views: sRGB, antialiased, background black, ``[F, 3, h, w]`` in [0, 1].
        uv: sRGB albedo, ``[3, H, W]``; background black.
        texture: what was painted, or ``None`` for colours that were not made here.
    """

    views: Tensor
    uv: Tensor
    texture: SolidTexture | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds in the texture, the dominant first."""
        return () if self.texture is None else self.texture.kinds


class ObjectSample:
    """One object, decoded once: its maps, and the points where textures are evaluated.

    Args:
        record: on any device.
        sizes: that the record was made with.
    """

    def __init__(self, record: GeometryRecord, sizes: RecordSizes) -> None:
        self.record = record
        self.sizes = sizes
        self._view_index = record.view_index()
        self._uv_index = record.uv_index()
        row = self._view_index // sizes.fine_size
        column = self._view_index - row * sizes.fine_size
        self._view = row // sizes.fine_size
        self._pixel = row // sizes.supersample * sizes.view_size + column // sizes.supersample
        self.position, self.normal = record.world_points()
        self.points: SurfacePoints = record.surface_points(
            self.position, self.normal, sizes, self._view
        )

    @property
    def num_view_samples(self) -> int:
        """How many of the points belong to the views; the others are texels."""
        return self._view_index.shape[0]

    def maps(self) -> GeometryMaps:
        """The geometry maps."""
        count = self.num_view_samples
        ones = torch.ones_like(self.position[:count, :1])
        stacked = torch.cat([self.position[:count], self.normal[:count], ones], dim=-1)
        views = self.view_image(stacked)
        uv_ones = torch.ones_like(self.position[count:, :1])
        uv = self.uv_image(torch.cat([self.position[count:], self.normal[count:], uv_ones], dim=-1))
        shifts = torch.arange(self.sizes.num_views, dtype=torch.uint8, device=uv.device)
        seen = (self.record.uv_visible[:, None] >> shifts) & 1
        return GeometryMaps(
            view_position=views[:, :3],
            view_normal=views[:, 3:6],
            view_mask=views[:, 6:],
            uv_position=uv[:3],
            uv_normal=uv[3:6],
            uv_mask=uv[6:],
            uv_visible=self.uv_image(seen) > 0,
        )

    def painted(self, texture: SolidTexture, lighting: Lighting | None = None) -> TextureImages:
        """The views and the UV map in a texture; views are lit if a lighting is given."""
        color = texture(self.points)
        count = self.num_view_samples
        seen = color[:count] if lighting is None else self.lit(color[:count], lighting)
        return TextureImages(
            views=self.view_image(seen), uv=self.uv_image(color[count:]), texture=texture
        )

    def lit(self, albedo: Tensor, lighting: Lighting) -> Tensor:
        """Colours ``[N, 3]`` of the samples of the views under a lighting."""
        count = self.num_view_samples
        toward = normalize(self.record.eyes[self._view] - self.position[:count], dim=-1)
        return shaded(albedo, self.normal[:count], toward, lighting)

    def view_image(self, values: Tensor) -> Tensor:
        """``[F, C, h, w]`` of values ``[N, C]`` at the samples of the views, averaged over pixels.

        The background counts as 0.
        """
        size, views = self.sizes.view_size, self.sizes.num_views
        total = values.new_zeros(views * size * size, values.shape[-1])
        total.index_add_(0, self._pixel, values, alpha=1.0 / self.sizes.supersample**2)
        return total.reshape(views, size, size, -1).permute(0, 3, 1, 2)

    def uv_image(self, values: Tensor) -> Tensor:
        """``[C, H, W]`` of values ``[M, C]`` at the texels; the background is 0."""
        size = self.sizes.uv_size
        flat = values.new_zeros(size * size, values.shape[-1])
        return flat.index_copy(0, self._uv_index, values).reshape(size, size, -1).permute(2, 0, 1)


def draw_texture(
    sample: ObjectSample,
    generator: np.random.Generator,
    *,
    kinds: Sequence[str],
    lit: bool = False,
) -> TextureImages:
    """A fresh random texture on an object.

    Draws that show no contrast at all (one colour over all that is seen) are replaced.

    Args:
        sample: the object.
        generator: all randomness.
        kinds: texture kinds to draw from, as from ``split_kinds``.
        lit: shade the views; the UV map stays albedo.

    Raises:
        UsageError: an unknown kind.
    """
    facts = sample.record.facts()
    for _ in range(4):
        texture = draw_solid_texture(generator, facts, kinds)
        lighting = draw_lighting(generator) if lit else None
        images = sample.painted(texture, lighting)
        texels = images.uv.flatten(1)[:, sample._uv_index]
        if float(texels.std(dim=1).max()) > 0.02:
            break
    return images
