"""Shapes that pictures are projected on in tests."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from seqtex_geometry.surface import SurfaceTensors


def sphere(scale: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> SurfaceTensors:
    """Front half in the left half of the UV square, back half in the right half."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    centre = ball.triangles_center
    corners = ball.vertices[ball.faces]
    uvs = (corners[..., [0, 2]] * 0.95 + 1) / 2 * [0.5, 1]
    uvs[centre[:, 1] > 0, :, 0] += 0.5
    points = torch.tensor(ball.vertices * scale).float()
    return SurfaceTensors(
        vertices=points,
        faces=torch.tensor(np.asarray(ball.faces)).long(),
        vertex_normals=torch.nn.functional.normalize(points / torch.tensor(scale) ** 2, dim=-1),
        face_uvs=torch.tensor(uvs).float(),
    )
