"""Camera rigs: the released four views, and any other views around the object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from seqtex_core.errors import UsageError

from .mesh import VIEW_NAMES

Projection = Literal["perspective", "orthographic"]
Axis = Literal["x", "y", "z"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraRig:
    """F cameras with one projection; pixels are square.

    Args:
        names: one unique name per camera.
        world_to_camera: rigid transforms, ``[F, 4, 4]``, float32 or float64.
        half_extent: half of the image's shorter side: at depth 1 for ``perspective`` (the tangent
            of half the field of view), in world units for ``orthographic``.
        projection: ``perspective`` or ``orthographic``.
        near: surfaces nearer than this depth are not seen.
        far: surfaces farther than this depth are not seen.

    Convention:
        World z is up. Camera x points right, y up, and the camera looks along -z; depth is -z, the
        distance along the viewing direction, not along the ray. Row 0 of an image is the top, and
        pixel ``(row, column)`` has its centre at ``(row + 0.5, column + 0.5)``.

    Raises:
        UsageError: shapes, names or ranges that make no camera.
    """

    names: tuple[str, ...]
    world_to_camera: Tensor
    half_extent: float
    projection: Projection = "perspective"
    near: float = 0.1
    far: float = 1000.0

    def __post_init__(self) -> None:
        count = len(self.names)
        if count == 0 or len(set(self.names)) != count:
            raise UsageError("view names", expected="at least one, unique", got=str(self.names))
        if tuple(self.world_to_camera.shape) != (count, 4, 4):
            raise UsageError(
                "world_to_camera",
                expected=f"shape [{count}, 4, 4]",
                got=str(list(self.world_to_camera.shape)),
            )
        if self.projection not in ("perspective", "orthographic"):
            raise UsageError(
                "projection", expected="perspective or orthographic", got=repr(self.projection)
            )
        if not (0 < self.near < self.far and self.half_extent > 0):
            raise UsageError(
                "camera ranges",
                expected="0 < near < far and half_extent > 0",
                got=f"near {self.near}, far {self.far}, half_extent {self.half_extent}",
            )

    @classmethod
    def seqtex(cls, *, diagonal: float) -> CameraRig:
        """The released rig: front, left, back, right, from 10 degrees above.

        Args:
            diagonal: length of the bounding box's diagonal; the distance is 50/36 of it, so that a
                sphere of that diameter nearly fills the picture of a 50 mm lens on a 36 mm sensor.

        Source: arXiv 2507.04285, released inference settings.
        """
        return cls.orbit(
            azimuths=(-90.0, 0.0, 90.0, 180.0),
            elevations=10.0,
            names=VIEW_NAMES,
            distance=50.0 / 36.0 * diagonal,
        )

    @classmethod
    def orbit(
        cls,
        *,
        azimuths: Sequence[float],
        elevations: float | Sequence[float],
        distance: float,
        names: Sequence[str] | None = None,
        half_extent: float = 18.0 / 50.0,
        projection: Projection = "perspective",
        target: Sequence[float] = (0.0, 0.0, 0.0),
        near: float = 0.1,
    ) -> CameraRig:
        """Cameras on a sphere around ``target``, looking at it, world z up in the picture.

        Args:
            azimuths: degrees from +x towards +y; -90 looks at the front of an object facing -y.
            elevations: degrees above the xy plane, one for all or one per camera. At +-90 the
                picture's up is the limit of smaller elevations.
            distance: from ``target``, positive.
            names: defaults to ``view0``, ``view1`` and so on.
            half_extent: see :class:`CameraRig`; defaults to a 50 mm lens on a 36 mm sensor.
            projection: ``perspective`` or ``orthographic``.
            target: world point in the middle of every picture.
            near: nearest depth that is seen.

        Raises:
            UsageError: lengths differ, or ``distance`` is not positive.
        """
        if isinstance(elevations, (int, float)):
            elevations = [float(elevations)] * len(azimuths)
        names = tuple(names) if names else tuple(f"view{i}" for i in range(len(azimuths)))
        if not len(azimuths) == len(elevations) == len(names):
            raise UsageError(
                "camera rig",
                expected="as many elevations and names as azimuths",
                got=f"{len(azimuths)} azimuths, {len(elevations)} elevations, {len(names)} names",
            )
        if not (distance > 0 and math.isfinite(distance)):
            raise UsageError("camera distance", expected="a positive number", got=str(distance))
        matrices = [
            _orbit_matrix(azimuth, elevation, distance, target)
            for azimuth, elevation in zip(azimuths, elevations, strict=True)
        ]
        return cls(
            names=names,
            world_to_camera=torch.tensor(matrices, dtype=torch.float64).reshape(-1, 4, 4).float(),
            half_extent=half_extent,
            projection=projection,
            near=near,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Where the matrices live."""
        return self.world_to_camera.device

    def to(self, device: torch.device | str) -> CameraRig:
        """The same cameras on ``device``."""
        return replace(self, world_to_camera=self.world_to_camera.to(device))

    def select(self, *names: str) -> CameraRig:
        """The cameras called ``names``, in that order.

        Raises:
            UsageError: an unknown name.
        """
        index = [self.index(name) for name in names]
        return replace(self, names=tuple(names), world_to_camera=self.world_to_camera[index])

    def mirrored(self, *axes: Axis) -> CameraRig:
        """Cameras that see the world mirrored across the planes ``axis = 0``.

        What such a camera sees of an object is what this one sees of the object's mirror image;
        its pictures are swapped left and right against what a real camera there would take.
        """
        signs = [-1.0 if axis in axes else 1.0 for axis in ("x", "y", "z")]
        scale = self.world_to_camera.new_tensor([*signs, 1.0])
        return replace(self, world_to_camera=self.world_to_camera * scale)

    def index(self, name: str) -> int:
        """Position of the camera called ``name``.

        Raises:
            UsageError: no such camera.
        """
        if name not in self.names:
            raise UsageError("view name", expected="one of " + ", ".join(self.names), got=name)
        return self.names.index(name)

    def half_size(self, height: int, width: int) -> tuple[float, float]:
        """Half of the picture's width and height, in the units of ``half_extent``."""
        shorter = min(height, width)
        return self.half_extent * width / shorter, self.half_extent * height / shorter

    def centers(self) -> Tensor:
        """Camera positions in the world, ``[F, 3]``."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -torch.einsum("fji,fj->fi", rotation, translation)

    def forwards(self) -> Tensor:
        """Unit viewing directions in the world, ``[F, 3]``."""
        return -self.world_to_camera[:, 2, :3]

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rays through the pixel centres.

        Returns:
            Origins and directions in the world, ``[F, H, W, 3]`` each. Origins have depth 0 and a
            direction gains one unit of depth, so that a ray's parameter is the depth.
        """
        half_width, half_height = self.half_size(height, width)
        matrices = self.world_to_camera
        columns = torch.arange(width, dtype=matrices.dtype, device=matrices.device)
        rows = torch.arange(height, dtype=matrices.dtype, device=matrices.device)
        x = ((columns + 0.5) * (2.0 / width) - 1.0) * half_width
        y = (1.0 - (rows + 0.5) * (2.0 / height)) * half_height
        plane = (
            x[None, None, :, None] * matrices[:, None, None, 0, :3]
            + y[None, :, None, None] * matrices[:, None, None, 1, :3]
        )
        centers = self.centers()[:, None, None]
        forwards = self.forwards()[:, None, None]
        if self.projection == "perspective":
            return centers.expand(plane.shape), forwards + plane
        return centers + plane, forwards.expand(plane.shape)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where world points land in the picture of every camera.

        Args:
            points: ``[N, 3]``, or ``[F, N, 3]`` for other points per camera.

        Returns:
            Coordinates ``[F, N, 2]`` in units of ``half_extent`` (right and up from the middle;
            a square picture spans [-1, 1]) and depth ``[F, N]``. Points with depth <= 0 lie behind
            a perspective camera; their coordinates mean nothing.
        """
        if points.ndim == 2:
            points = points.expand(len(self), *points.shape)
        matrices = self.world_to_camera.to(points.dtype)
        local = torch.einsum("fij,fnj->fni", matrices[:, :3, :3], points)
        local = local + matrices[:, None, :3, 3]
        depth = -local[..., 2]
        scale = depth[..., None] if self.projection == "perspective" else 1.0
        return local[..., :2] / (self.half_extent * scale), depth

    def project_to_pixels(self, points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Like :meth:`project`, in pixels: column and row, the first pixel's centre at 0.5."""
        xy, depth = self.project(points)
        shorter = min(height, width)
        column = (xy[..., 0] * shorter + width) * 0.5
        row = (height - xy[..., 1] * shorter) * 0.5
        return torch.stack([column, row], dim=-1), depth


def _orbit_matrix(
    azimuth: float, elevation: float, distance: float, target: Sequence[float]
) -> list[float]:
    """World-to-camera matrix, row by row, in double precision."""
    az, el = math.radians(azimuth), math.radians(elevation)
    right = (-math.sin(az), math.cos(az), 0.0)
    up = (-math.sin(el) * math.cos(az), -math.sin(el) * math.sin(az), math.cos(el))
    back = (math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el))
    rows: list[float] = []
    for axis, offset in ((right, 0.0), (up, 0.0), (back, -distance)):
        shift = offset - sum(a * t for a, t in zip(axis, target, strict=True))
        rows += [*axis, shift]
    return [*rows, 0.0, 0.0, 0.0, 1.0]
