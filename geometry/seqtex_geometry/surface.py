"""The part of a mesh that rasterizing and baking need, as torch tensors on one device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_core.errors import InputError, UsageError

from .checks import check_kind, check_mesh
from .mesh import Mesh


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceTensors:
    """A triangle surface as tensors; differentiable in its floating-point fields.

    Args:
        vertices: positions, ``[V, 3]``.
        faces: vertex indices, ``[T, 3]``, int64.
        vertex_normals: unit normals, ``[V, 3]``.
        face_uvs: UV coordinates per face corner, ``[T, 3, 2]``, v up, NaN where a face has none;
            ``None`` if the surface has none.

    Raises:
        UsageError: no tensor, or a shape or dtype is wrong.
        InputError: ``faces`` names a vertex that does not exist.
    """

    vertices: Tensor
    faces: Tensor
    vertex_normals: Tensor
    face_uvs: Tensor | None = None

    def __post_init__(self) -> None:
        _check_shape("vertices", self.vertices, (-1, 3))
        _check_shape("faces", self.faces, (-1, 3))
        _check_shape("vertex_normals", self.vertex_normals, (self.vertices.shape[0], 3))
        if self.faces.dtype != torch.int64:
            raise UsageError("faces", expected="dtype int64", got=str(self.faces.dtype))
        if self.face_uvs is not None:
            _check_shape("face_uvs", self.face_uvs, (self.faces.shape[0], 3, 2))
        if self.num_faces == 0:
            return
        low, high = int(self.faces.min()), int(self.faces.max())
        if low < 0 or high >= self.vertices.shape[0]:
            raise InputError(
                "faces",
                expected=f"vertex indices in [0, {self.vertices.shape[0]})",
                got=f"indices from {low} to {high}",
            )

    @classmethod
    def from_mesh(cls, mesh: Mesh, device: torch.device | str = "cpu") -> SurfaceTensors:
        """The surface of ``mesh``, copied to ``device``.

        Raises:
            UsageError: no ``Mesh``, such as the asset that holds it.
        """
        check_mesh(mesh)
        uvs = None if mesh.face_uvs is None else torch.tensor(mesh.face_uvs, device=device)
        return cls(
            vertices=torch.tensor(mesh.vertices, device=device),
            faces=torch.tensor(mesh.faces, dtype=torch.int64, device=device),
            vertex_normals=torch.tensor(mesh.vertex_normals, device=device),
            face_uvs=uvs,
        )

    @property
    def num_faces(self) -> int:
        """Number of triangles."""
        return self.faces.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.vertices.device

    @property
    def diagonal(self) -> float:
        """Length of the bounding box's diagonal; 0 for an empty surface."""
        if self.vertices.shape[0] == 0:
            return 0.0
        points = self.vertices.detach()
        return float(torch.linalg.vector_norm(points.amax(0) - points.amin(0)))

    def corners(self) -> Tensor:
        """Positions of the face corners, ``[T, 3, 3]``."""
        return self.vertices[self.faces]

    def to(self, device: torch.device | str) -> SurfaceTensors:
        """The same surface on ``device``."""
        return SurfaceTensors(
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            vertex_normals=self.vertex_normals.to(device),
            face_uvs=None if self.face_uvs is None else self.face_uvs.to(device),
        )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    remedy = "Use torch.from_numpy, or SurfaceTensors.from_mesh for a Mesh."
    check_kind(name, tensor, Tensor, remedy=remedy)
    fits = tensor.ndim == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        want = ", ".join("any" if size < 0 else str(size) for size in shape)
        raise UsageError(name, expected=f"shape [{want}]", got=str(list(tensor.shape)))
