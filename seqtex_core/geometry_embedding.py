"""Geometry as tokens: encoded position and normal maps, embedded like the latents they lie beside.

Source:
    SeqTex (arXiv 2507.04285), section 3.2; ``c_geo`` of Eq. 5-7 before the blocks' own casters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from .checks import check_floating, check_shape, check_type
from .errors import UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class GeometryLatents:
    """Encoded geometry maps of one frame group.

    Args:
        position: latents of the position map, ``[B, C, F, H, W]``, sized like the group's latents.
        normal: latents of the normal map, likewise.
        points: mean position and unit normal of the surface in each latent texel,
            ``[B, 6, F, H, W]``; needed by models with a copy head only.

    Raises:
        UsageError: no floating-point tensors, or different shapes.
    """

    position: Tensor
    normal: Tensor
    points: Tensor | None = None

    def __post_init__(self) -> None:
        for name, maps in (("position", self.position), ("normal", self.normal)):
            check_type(f"geometry latents: {name}", maps, Tensor)
            check_floating(f"geometry latents: {name}", maps)
        if self.position.shape != self.normal.shape or self.position.ndim != 5:
            raise UsageError(
                "geometry latents",
                expected="position and normal of one shape [B, C, F, H, W]",
                got=f"{tuple(self.position.shape)} and {tuple(self.normal.shape)}",
            )
        if self.points is not None:
            batch, _, *size = self.position.shape
            check_type("geometry latents: points", self.points, Tensor)
            check_floating("geometry latents: points", self.points)
            check_shape("geometry latents: points", self.points, (batch, 6, *size), "B 6 F H W")

    def each(self, change: Callable[[Tensor], Tensor]) -> GeometryLatents:
        """The maps, and the points if there are any, after the same change.

        Args:
            change: of one tensor ``[B, C, F, H, W]``, such as a choice of samples or frames.
        """
        points = None if self.points is None else change(self.points)
        return GeometryLatents(
            position=change(self.position), normal=change(self.normal), points=points
        )


class GeometryEmbedding(nn.Module):
    """Sum of two patch embeddings: one for positions (outline), one for normals (detail).

    Args:
        position: maps ``[B, C, F, H, W]`` to tokens ``[B, L, D]``.
        normal: likewise.
    """

    def __init__(self, position: nn.Module, normal: nn.Module) -> None:
        super().__init__()
        self.position = position
        self.normal = normal

    def forward(self, geometry: GeometryLatents) -> Tensor:
        """Geometry tokens of a group, ``[B, L, D]``."""
        tokens: Tensor = self.position(geometry.position) + self.normal(geometry.normal)
        return tokens


def first_caster(dim: int, inner_dim: int, *, like: Tensor, gain: float = 0.0) -> nn.Linear:
    """A block's projection of geometry tokens into head space; zero, so training starts clean.

    Args:
        dim: width of the geometry tokens.
        inner_dim: width of queries and keys, all heads together.
        like: a tensor with the device and dtype to use.
        gain: spread of the weights times the root of ``dim``; 0 draws no random numbers.
    """
    caster = nn.Linear(dim, inner_dim, device="meta")  # draws no random numbers
    caster.weight = nn.Parameter(like.new_zeros(inner_dim, dim))
    if gain:
        nn.init.normal_(caster.weight, std=gain / dim**0.5)
    caster.bias = nn.Parameter(like.new_zeros(inner_dim))
    return caster
