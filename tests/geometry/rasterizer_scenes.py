"""What the rasterizer tests share: surfaces, and what Kaolin's documentation and kernel say."""

from __future__ import annotations

import numpy as np
import torch

from seqtex_geometry.surface import SurfaceTensors


def kaolin_rasterize(
    height: int,
    width: int,
    face_vertices_z: torch.Tensor,
    face_vertices_image: torch.Tensor,
    face_features: torch.Tensor,
    valid_faces: torch.Tensor | None = None,
    multiplier: float | None = None,
    eps: float | None = None,
    backend: str = "cuda",
) -> tuple[torch.Tensor, torch.Tensor]:
    """What kaolin 0.18 does on CUDA, face by face in fp32; features are left zero."""
    batch, count, _ = face_vertices_z.shape
    assert face_vertices_image.shape == (batch, count, 3, 2)
    assert face_features.shape[:3] == (batch, count, 3)
    assert backend == "cuda"
    assert {face_vertices_z.dtype, face_vertices_image.dtype} == {torch.float32}
    scale, eps = np.float32(multiplier or 1000), np.float32(eps or 1e-8)
    x = scale / np.float32(width) * (2 * torch.arange(width) + 1 - width).float()
    y = scale / np.float32(height) * (height - 2 * torch.arange(height) - 1).float()[:, None]
    face_idx = torch.full((batch, height, width), -1)
    for frame in range(batch):
        best = torch.full((height, width), -torch.inf)
        valid = range(count) if valid_faces is None else torch.nonzero(valid_faces[frame])[:, 0]
        assert valid_faces is None or valid_faces.any(), "kaolin would index an empty table"
        for face in valid:
            a, b, c = face_vertices_image[frame, face] * scale
            low, high = torch.stack([a, b, c]).amin(0), torch.stack([a, b, c]).amax(0)
            columns = torch.nonzero((x >= low[0]) & (x < high[0]))[:, 0]
            rows = torch.nonzero((y[:, 0] >= low[1]) & (y[:, 0] < high[1]))[:, 0]
            px, py, box = x[columns], y[rows], (rows[:, None], columns)
            w0 = (b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)
            w1 = (c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)
            w2 = (a[0] - px) * (b[1] - py) - (a[1] - py) * (b[0] - px)
            norm = w0 + w1 + w2
            norm = norm + torch.copysign(torch.tensor(eps), norm)
            weights = torch.stack([w0, w1, w2]) / norm
            z = (weights * face_vertices_z[frame, face][:, None, None]).sum(0)
            won = (weights >= 0).all(0) & (z > best[box])
            best[box] = torch.where(won, z, best[box])
            face_idx[frame][box] = torch.where(won, face, face_idx[frame][box])
    return torch.zeros(batch, height, width, face_features.shape[-1]), face_idx


def surface_of(vertices: object, faces: object) -> SurfaceTensors:
    points = torch.as_tensor(np.asarray(vertices), dtype=torch.float32).reshape(-1, 3)
    return SurfaceTensors(
        vertices=points,
        faces=torch.as_tensor(np.asarray(faces), dtype=torch.int64).reshape(-1, 3),
        vertex_normals=torch.zeros_like(points),
    )


def wall(y: float, size: float = 1.0) -> np.ndarray:
    """Corners of an upright square facing -y, counter-clockwise from the lower left."""
    return size * np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) + [0, y, 0]
