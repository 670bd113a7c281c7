"""Every rasterizer backend against the reference, on closed surfaces and random charts."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
import trimesh
from rasterizer_scenes import surface_of

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.rasterize import RASTERIZERS, Rasterizer
from seqtex_geometry.surface import SurfaceTensors


def blob(count: int = 3) -> SurfaceTensors:
    """A bumpy closed surface that hides parts of itself."""
    ball = trimesh.creation.icosphere(subdivisions=count)
    x, y, z = ball.vertices.T
    scale = 0.75 + 0.25 * np.sin(5 * x + 1) * np.cos(4 * y) + 0.2 * np.sin(6 * z)
    return surface_of(ball.vertices * scale[:, None], ball.faces)


_SIZE = {"height": 95, "width": 121}


@cache
def example(
    projection: Literal["perspective", "orthographic"],
) -> tuple[SurfaceTensors, CameraRig, torch.Tensor]:
    """A surface, three cameras, and what the reference sees."""
    surface = blob(3)
    rig = CameraRig.orbit(
        azimuths=(-90.0, 33.0, 171.0),
        elevations=(10.0, -35.0, 80.0),
        distance=4.0,
        projection=projection,
        half_extent=0.36 if projection == "perspective" else 1.3,
    )
    return surface, rig, RASTERIZERS.get("reference").face_idx_views(surface, rig, **_SIZE)


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_views_agree_with_the_reference(
    rasterizer: Rasterizer, projection: Literal["perspective", "orthographic"]
) -> None:
    surface, rig, expected = example(projection)
    found = rasterizer.face_idx_views(surface, rig, **_SIZE)
    assert (expected >= 0).float().mean() > 0.2
    differ = found != expected
    edge = edge_distance(surface, rig, expected, found, **_SIZE)
    # fp32 places edges to about 1e-4 pixels: away from them, faces are the same, always
    assert edge[differ].tolist() == [d for d in edge[differ].tolist() if d < 5e-3]
    assert differ.float().mean() < 1e-3
    # and what flips, flips both ways: coverage is the same but for a few pixels
    assert abs(int((found >= 0).sum() - (expected >= 0).sum())) <= 3


def edge_distance(
    surface: SurfaceTensors,
    rig: CameraRig,
    expected: torch.Tensor,
    found: torch.Tensor,
    *,
    height: int,
    width: int,
) -> torch.Tensor:
    """Pixels between each pixel centre and the outline of the face there, ``[F, H, W]``."""
    pixels, _ = rig.project_to_pixels(surface.vertices.double(), height, width)
    rows, columns = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    centre = torch.stack([columns, rows], -1).double().expand(len(rig), -1, -1, -1)
    nearest = torch.full(expected.shape, torch.inf, dtype=torch.float64)
    frame = torch.arange(len(rig))[:, None, None].expand(expected.shape)
    for face_idx in (expected, found):
        corners = pixels[frame[..., None], surface.faces[face_idx.clamp(min=0)]]
        for k in range(3):
            a, b = corners[..., k, :], corners[..., (k + 1) % 3, :]
            along = ((centre - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1).clamp(min=1e-12)
            foot = a + along.clamp(0, 1)[..., None] * (b - a)
            distance = (centre - foot).norm(dim=-1)
            nearest = torch.where(face_idx >= 0, torch.minimum(nearest, distance), nearest)
    return nearest


def test_closed_surface_has_no_cracks(rasterizer: Rasterizer) -> None:
    """Seen from inside, every pixel of a closed surface is covered."""
    ball = trimesh.creation.icosphere(
        subdivisions=5 if rasterizer.name in ("embree", "warp") else 2
    )
    surface = surface_of(5.0 * ball.vertices, ball.faces)
    rig = CameraRig.orbit(azimuths=(-90.0, 40.0), elevations=(0.0, 25.0), distance=1.0)
    found = rasterizer.face_idx_views(surface, rig, height=120, width=120)
    assert (found >= 0).all()


def test_uv_agrees_with_the_reference(rasterizer: Rasterizer) -> None:
    generator = np.random.default_rng(1)
    corner = generator.random((300, 1, 2))
    faces = torch.as_tensor(corner + 0.1 * generator.standard_normal((300, 3, 2))).float()
    expected = RASTERIZERS.get("reference").face_idx_uv(faces, height=83, width=64)
    found = rasterizer.face_idx_uv(faces, height=83, width=64)
    # overlaps included; 83 x 64 centres, edges placed to 1e-4 texels: one flip is already unlikely
    assert (found != expected).sum() <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["kaolin", "warp"])
def test_cuda_agrees_with_the_reference(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backend = RASTERIZERS.get(name)
    reason = backend.reason_unsupported(torch.device("cuda"))
    if reason is not None:
        pytest.skip(reason)
    surface = blob(5)
    rig = CameraRig.seqtex(diagonal=surface.diagonal)
    expected = RASTERIZERS.get("reference").face_idx_views(surface, rig, height=256, width=256)
    found = backend.face_idx_views(surface.to("cuda"), rig.to("cuda"), height=256, width=256)
    assert found.device.type == "cuda"
    assert (found.cpu() != expected).float().mean() < 1e-3
    uvs = torch.rand(2000, 1, 2) + 0.02 * torch.randn(2000, 3, 2)
    expected = RASTERIZERS.get("reference").face_idx_uv(uvs, height=512, width=512)
    found = backend.face_idx_uv(uvs.cuda(), height=512, width=512)
    assert (found.cpu() != expected).float().mean() < 1e-4
