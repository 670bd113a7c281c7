"""The definition of rasterization: exact edge functions in double precision, plain torch.

Every face is tried on every pixel of its bounding rectangle. The edge functions are homogeneous
(2D homogeneous rasterization), so faces that cross the plane of the camera need no clipping.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..cameras import CameraRig
from ..surface import SurfaceTensors
from .triangles import solid_faces, uv_corners

_PAIRS_PER_CHUNK = 1 << 18  # face-pixel pairs held at once; about 60 MB of temporaries
_SAME_DEPTH = 1e-9  # relative; faces this close are at the same depth and the lowest index wins
_EDGE_ON = 1e-13  # relative; a determinant this small is rounding


class ReferenceRasterizer:
    """Runs on every device with double precision; slow where faces are large."""

    name = "reference"
    devices = ("cpu", "cuda", "xpu")

    def reason_unsupported(self, device: torch.device) -> str | None:
        """``None``, except on devices without double precision."""
        return "no double precision on mps" if device.type == "mps" else None

    def face_idx_views(
        self, surface: SurfaceTensors, cameras: CameraRig, *, height: int, width: int
    ) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        kept = solid_faces(surface.corners())
        faces = surface.faces[kept]
        half_width, half_height = cameras.half_size(height, width)
        matrices = cameras.world_to_camera.to(surface.device).double()
        points = surface.vertices.detach().double()
        images = []
        for matrix in matrices:
            x, y, z = (points @ matrix[:3, :3].T + matrix[:3, 3]).unbind(-1)
            depth = -z
            w = depth if cameras.projection == "perspective" else torch.ones_like(depth)
            columns = 0.5 * width * (x / half_width + w)
            rows = 0.5 * height * (w - y / half_height)
            corners = torch.stack([columns, rows, w], dim=-1)[faces]
            images.append(
                nearest_faces(corners, depth[faces], height, width, cameras.near, cameras.far)
            )
        face_idx = torch.stack(images)
        return torch.where(face_idx >= 0, _lookup(kept, face_idx), -1)

    def face_idx_uv(self, face_uvs: Tensor, *, height: int, width: int) -> Tensor:
        """See :class:`~seqtex_geometry.rasterize.Rasterizer`."""
        kept = solid_faces(uv_corners(face_uvs))
        u, v = face_uvs.detach()[kept].double().unbind(-1)
        corners = torch.stack([u * width, (1.0 - v) * height, torch.ones_like(u)], dim=-1)
        face_idx = nearest_faces(corners, torch.zeros_like(u), height, width, -1.0, 1.0)
        return torch.where(face_idx >= 0, _lookup(kept, face_idx), -1)


def uv_coverage(face_uvs: Tensor, *, height: int, width: int) -> Tensor:
    """How many faces cover each texel centre, ``[H, W]`` int64; above 1 where charts overlap.

    Borders count for no face, so neighbours that share an edge under a centre do not overlap.

    Args:
        face_uvs: ``[T, 3, 2]``; faces without area or with NaN count for nothing.
        height: rows.
        width: columns.
    """
    kept = solid_faces(uv_corners(face_uvs))
    u, v = face_uvs.detach()[kept].double().unbind(-1)
    corners = torch.stack([u * width, (1.0 - v) * height, torch.ones_like(u)], dim=-1)
    count = torch.zeros(height * width, dtype=torch.int64, device=face_uvs.device)
    edges, flat = _edge_functions(corners), torch.zeros_like(u)
    for face, column, row in _pairs(corners, flat, edges, height, width, -1.0):
        weights = _weights(edges[face], column, row)
        inside = (weights > 0).all(-1) | (weights < 0).all(-1)
        pixel = (row * width + column)[inside]
        count.index_add_(0, pixel, torch.ones_like(pixel))
    return count.reshape(height, width)


def nearest_faces(
    corners: Tensor, depth: Tensor, height: int, width: int, near: float, far: float
) -> Tensor:
    """Lowest index among the nearest faces of every pixel, ``[H, W]`` int64, -1 for none.

    Args:
        corners: homogeneous pixel coordinates ``(column * w, row * w, w)``, ``[T, 3, 3]``, float64.
        depth: of the corners, ``[T, 3]``, affine on the face.
        height: rows.
        width: columns.
        near: least depth that is seen.
        far: greatest depth that is seen.
    """
    size = height * width
    nearest = torch.full((size,), torch.inf, dtype=corners.dtype, device=corners.device)
    for _, pixel, value in _hits(corners, depth, height, width, near, far):
        nearest.scatter_reduce_(0, pixel, value, "amin")
    none = corners.shape[0]
    winner = torch.full((size,), none, dtype=torch.int64, device=corners.device)
    limit = nearest + _SAME_DEPTH * nearest.abs()
    for face, pixel, value in _hits(corners, depth, height, width, near, far):
        won = value <= limit[pixel]
        winner.scatter_reduce_(0, pixel[won], face[won], "amin")
    return torch.where(winner == none, -1, winner).reshape(height, width)


def _hits(
    corners: Tensor, depth: Tensor, height: int, width: int, near: float, far: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (face, pixel, depth) where a pixel centre lies on a face, in chunks of faces."""
    edges = _edge_functions(corners)
    for face, column, row in _pairs(corners, depth, edges, height, width, near):
        weights = _weights(edges[face], column, row)
        total = weights.sum(-1)
        inside = ((weights >= 0).all(-1) | (weights <= 0).all(-1)) & (total != 0)
        value = (weights * depth[face]).sum(-1) / total
        seen = inside & (value >= near) & (value <= far)
        yield face[seen], (row * width + column)[seen], value[seen]


def _edge_functions(corners: Tensor) -> Tensor:
    """Coefficients in (column, row, 1), ``[T, 3, 3]``; function i lies opposite to corner i."""
    return torch.stack([_cross(corners[:, i - 2], corners[:, i - 1]) for i in range(3)], dim=1)


def _weights(edges: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Edge functions at the pixel centres, ``[N, 3]``: of one sign on the face, 0 on its border."""
    x, y = column[:, None] + 0.5, row[:, None] + 0.5
    return edges[..., 0] * x + edges[..., 1] * y + edges[..., 2]


def _pairs(
    corners: Tensor, depth: Tensor, edges: Tensor, height: int, width: int, near: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (face, column, row) in the faces' bounding rectangles, in chunks of faces."""
    first, count = _rectangles(corners, depth, height, width, near)
    pairs = torch.where(_edge_on(corners, edges), 0, count.prod(-1))
    ends = pairs.cumsum(0)
    start = 0
    while start < len(pairs):
        base = int(ends[start - 1]) if start else 0
        stop = int(torch.searchsorted(ends, base + _PAIRS_PER_CHUNK, right=True))
        stop = max(stop, start + 1)
        face = torch.arange(start, stop, device=corners.device)
        face = face.repeat_interleave(pairs[start:stop])
        rank = torch.arange(len(face), device=face.device) - (ends[face] - pairs[face] - base)
        column = first[face, 0] + rank % count[face, 0]
        row = first[face, 1] + rank // count[face, 0]
        yield face, column, row
        start = stop


def _edge_on(corners: Tensor, edges: Tensor) -> Tensor:
    """True for faces whose plane holds the eye, to within rounding: they cover no pixel."""
    terms = corners[:, 0] * edges[:, 0]
    return terms.sum(-1).abs() <= _EDGE_ON * terms.abs().sum(-1)


def _rectangles(
    corners: Tensor, depth: Tensor, height: int, width: int, near: float
) -> tuple[Tensor, Tensor]:
    """First (column, row) and number of columns and rows whose centres a face can cover."""
    limit = torch.tensor([width, height], device=corners.device)
    seen = depth >= near
    points = [(corners, seen)]
    for turn in (1, 2):  # where the edges to the other corners meet the near plane
        other, other_depth = corners.roll(turn, 1), depth.roll(turn, 1)
        crosses = seen & (other_depth < near)
        share = torch.where(crosses, (near - depth) / (other_depth - depth), 0.0)
        points.append((corners + share[..., None] * (other - corners), crosses))
    counts = torch.cat([valid for _, valid in points], 1)[..., None]
    places = torch.cat([place for place, _ in points], 1)
    flat = places[..., :2] / torch.where(counts, places[..., 2:], 1.0)
    low = torch.where(counts, flat, torch.inf).amin(1).sub(0.5).ceil().clamp(min=0)
    high = torch.where(counts, flat, -torch.inf).amax(1).sub(0.5).floor().minimum(limit - 1.0)
    count = (high - low + 1).clamp(min=0)
    low = torch.where(torch.isfinite(low), low, 0.0)
    return low.long(), torch.where(torch.isfinite(count), count, 0.0).long()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product whose sign flips exactly when the arguments are swapped: no cracks."""
    ax, ay, az = a.unbind(-1)
    bx, by, bz = b.unbind(-1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=-1)


def _lookup(kept: Tensor, face_idx: Tensor) -> Tensor:
    return kept[face_idx.clamp(min=0)] if len(kept) else face_idx


REFERENCE = ReferenceRasterizer()
