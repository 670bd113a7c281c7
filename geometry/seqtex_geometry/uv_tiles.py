"""UVs outside the unit square: how many, and the faces brought back into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from .load.parsed import BORDER_TOLERANCE
from .mesh import FloatArray, IntArray, Mesh

MAX_TILES = 64
_TINY = 2.0**-10  # of the density of texels that an even spread over one texture has
_FLAT = 1e-13  # twice an area in UV space: a millionth of a texel of a 4096 texture


@dataclass(frozen=True, kw_only=True)
class UVReport:
    """What a mesh's UVs look like; fractions are of the faces that have UVs.

    Args:
        num_faces: faces with UVs.
        without_uvs: faces without.
        out_of_range: fraction with a corner outside [0, 1] by more than ``BORDER_TOLERANCE``.
        spanning: fraction that touches more than one unit tile.
        degenerate: fraction without area in UV space.
        mirrored: fraction whose winding in UV space is clockwise.
    """

    num_faces: int
    without_uvs: int
    out_of_range: float
    spanning: float
    degenerate: float
    mirrored: float


def uv_report(mesh: Mesh) -> UVReport:
    """Counts over the faces that own their texels (further instances are left out)."""
    owned = ~mesh.face_is_instance
    if mesh.face_uvs is None:
        return UVReport(
            num_faces=0,
            without_uvs=int(owned.sum()),
            out_of_range=0.0,
            spanning=0.0,
            degenerate=0.0,
            mirrored=0.0,
        )
    has_uvs = np.isfinite(mesh.face_uvs).all(axis=(1, 2)) & owned
    uvs = mesh.face_uvs[has_uvs].astype(np.float64)
    outside = (uvs < -BORDER_TOLERANCE) | (uvs > 1.0 + BORDER_TOLERANCE)
    low, high = _tile_range(uvs)
    edges = uvs[:, 1:] - uvs[:, :1]
    areas = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    count = max(len(uvs), 1)
    return UVReport(
        num_faces=len(uvs),
        without_uvs=int(owned.sum()) - len(uvs),
        out_of_range=float(outside.any(axis=(1, 2)).sum()) / count,
        spanning=float((low != high).any(axis=1).sum()) / count,
        degenerate=float((np.abs(areas) <= 1e-14).sum()) / count,
        mirrored=float((areas < -1e-14).sum()) / count,
    )


def flat_uv_share(mesh: Mesh) -> float:
    """Share of the surface that has UVs, but on a point or line of the texture, or nearly so.

    Such faces show a texel or two however large they are: dummy UVs, or a palette of colours.
    Nearly so is what has less than a thousandth of the texture's area that an even spread would
    give it: a whole object would get 32 x 32 of 1024 x 1024 texels.
    """
    if mesh.face_uvs is None:
        return 0.0
    has_uvs = np.isfinite(mesh.face_uvs).all(axis=(1, 2))
    corners = mesh.vertices[mesh.faces[has_uvs]].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    edges = mesh.face_uvs[has_uvs, 1:].astype(np.float64) - mesh.face_uvs[has_uvs, :1]
    covered = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    total = float(areas.sum())
    flat = (covered <= _FLAT) | (0.5 * covered * total < _TINY * areas)
    return float(areas[flat].sum()) / total if total > 0 else 0.0


def wrap_face_uvs(face_uvs: FloatArray) -> tuple[FloatArray, IntArray]:
    """Faces moved into the unit square, as a repeating texture shows them.

    A face that touches several integer tiles is listed once per tile, each copy shifted by that
    tile; what sticks out of [0, 1] is for the rasterizer to clip. A face that reaches no further
    than ``BORDER_TOLERANCE`` into a tile gets no copy there, so UVs that miss the border by
    rounding are not repeated on the far side.

    Args:
        face_uvs: ``[T, 3, 2]``; faces with NaN are left out.

    Returns:
        The shifted UVs, ``[N, 3, 2]``, and the face each copy came from, ``[N]``, ascending.

    Raises:
        InputError: a face touches more than ``MAX_TILES`` tiles.
    """
    finite = np.flatnonzero(np.isfinite(face_uvs).all(axis=(1, 2)))
    uvs = face_uvs[finite].astype(np.float64)
    low, high = _tile_range(uvs)
    spans = high - low + 1
    tiles = spans.prod(axis=1)
    if len(tiles) and float(tiles.max()) > MAX_TILES:
        worst = int(tiles.argmax())
        raise InputError(
            f"UVs of face {int(finite[worst])}",
            expected=f"at most {MAX_TILES} repeats of the texture on one face",
            got=f"{int(tiles[worst])}",
            remedy="Use --unwrap to make new UVs.",
        )
    rows = np.repeat(np.arange(len(uvs)), tiles.astype(np.int64))
    number = np.arange(len(rows)) - np.repeat(np.cumsum(tiles) - tiles, tiles.astype(np.int64))
    tile = low[rows] + np.stack([number % spans[rows, 0], number // spans[rows, 0]], axis=1)
    moved = uvs[rows] - tile[:, None, :]
    touching = (tiles[rows] == 1) | _touches_unit_square(moved)
    return moved[touching].astype(np.float32), finite[rows[touching]].astype(np.int64)


def _tile_range(
    uvs: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """First and last tile of each face's bounding box in u and v, ``[T, 2]`` each."""
    smallest, largest = uvs.min(axis=1), uvs.max(axis=1)
    low = np.floor(smallest + BORDER_TOLERANCE)
    high = np.ceil(largest - BORDER_TOLERANCE) - 1
    tiny = high < low  # smaller than the tolerance: it lies in the tile of its middle
    low = np.where(tiny, np.floor((smallest + largest) / 2), low)
    return low, np.where(tiny, low, high)


def _touches_unit_square(uvs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether a triangle overlaps [0, 1]^2, with area in common; bounding boxes already do."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    touching = np.ones(len(uvs), np.bool_)
    for index in range(3):
        start, end = uvs[:, index], uvs[:, (index + 1) % 3]
        normal = np.stack([start[:, 1] - end[:, 1], end[:, 0] - start[:, 0]], axis=1)
        inner = np.einsum("tx,tcx->tc", normal, uvs)
        square = normal @ corners.T
        apart = inner.max(axis=1) <= square.min(axis=1)
        apart |= inner.min(axis=1) >= square.max(axis=1)
        touching &= ~apart
    return touching
