"""The working copy: z up, facing -y, centred, longest edge 2."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from .axes import Axes
from .checks import check_mesh
from .mesh import FloatArray, Mesh


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalization:
    """Turns file positions ``p`` into working ones: ``scale * (rotation @ p - center)``.

    Args:
        rotation: file axes to working axes, ``[3, 3]``.
        center: middle of the rotated bounding box, ``[3]``.
        scale: 2 / longest edge of the bounding box.
    """

    rotation: npt.NDArray[np.float64]
    center: npt.NDArray[np.float64]
    scale: float

    def apply(self, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Working positions of file positions, ``[..., 3]``."""
        turned = np.asarray(positions, dtype=np.float64) @ self.rotation.T
        return np.asarray(self.scale * (turned - self.center))

    def invert(self, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """File positions of working positions, ``[..., 3]``."""
        turned = np.asarray(positions, dtype=np.float64) / self.scale + self.center
        return np.asarray(turned @ self.rotation)


def normalize(mesh: Mesh, axes: Axes | None = None) -> tuple[Mesh, Normalization]:
    """The working copy of a mesh, and the transform that leads there and back.

    Args:
        mesh: as loaded.
        axes: the file's axes, from ``MeshAsset.axes``; y up and +z front otherwise.

    Raises:
        InputError: all vertices lie at one point.
        UsageError: no ``Mesh``, such as the asset that holds it.

    Source:
        The frame that SeqTex's weights were trained in; see ``cameras``.
    """
    check_mesh(mesh)
    rotation = (axes or Axes()).rotation()
    used = np.unique(mesh.faces)
    turned = mesh.vertices[used].astype(np.float64) @ rotation.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    longest = float((high - low).max())
    if not longest > 0.0:
        raise InputError(
            "mesh",
            expected="vertices that span a volume",
            got="all of them at one point",
            remedy="Export the mesh again.",
        )
    normalization = Normalization(rotation=rotation, center=(low + high) / 2, scale=2.0 / longest)
    vertices: FloatArray = normalization.apply(mesh.vertices).astype(np.float32)
    normals: FloatArray = (mesh.vertex_normals @ rotation.T).astype(np.float32)
    return replace(mesh, vertices=vertices, vertex_normals=normals), normalization
