"""Planes across which a mesh is its own mirror image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from .cameras import Axis
from .surface import SurfaceTensors
from .surface_memory import once_per_surface

_AXES: tuple[Axis, ...] = ("x", "y")
_SAMPLES = 20_000
_TOLERANCE = 0.006  # of the bounding box's diagonal
_SHARE = 0.97  # of the surface that must find its mirror image


@once_per_surface
def find_mirrors(surface: SurfaceTensors) -> tuple[Axis, ...]:
    """The planes x = 0 and y = 0 across which the surface is its own mirror image.

    Measured on points spread evenly over the surface: nearly all must have a mirrored point whose
    distance is small against the object.
    """
    points = _surface_points(surface.corners().detach().double().cpu().numpy())
    if len(points) == 0:
        return ()
    tree = cKDTree(points)
    tolerance = _TOLERANCE * surface.diagonal + 2.0 * np.median(tree.query(points, k=2)[0][:, 1])
    found = []
    for index, axis in enumerate(_AXES):
        mirrored = points.copy()
        mirrored[:, index] *= -1
        distance, _ = tree.query(mirrored)
        if (distance <= tolerance).mean() >= _SHARE:
            found.append(axis)
    return tuple(found)


def _surface_points(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points spread evenly over triangles ``[T, 3, 3]``; the same for the same mesh."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    if area.sum() <= 0:
        return np.zeros((0, 3))
    generator = np.random.default_rng(0)
    steps = (np.arange(_SAMPLES) + generator.random(_SAMPLES)) / _SAMPLES
    face = np.minimum(np.searchsorted(np.cumsum(area) / area.sum(), steps), len(area) - 1)
    u, v = np.sqrt(generator.random(_SAMPLES)), generator.random(_SAMPLES)
    weight = np.stack([1 - u, u * (1 - v), u * v], axis=1)
    points: npt.NDArray[np.float64] = np.einsum("nk,nkc->nc", weight, corners[face])
    return points
