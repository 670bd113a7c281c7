"""Where in the picture a texel's colour is from: pictures whose colours are their own pixels."""

from __future__ import annotations

import pytest
import torch
import trimesh

from seqtex_geometry.backproject import backproject
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import uv_maps
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.surface import SurfaceTensors

BACKEND = choose_rasterizer("embree")


def front_half() -> SurfaceTensors:
    """The half of a sphere that faces -y, seen from there in its UV square."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    faces = torch.tensor(ball.faces[ball.triangles_center[:, 1] < 0]).long()
    points = torch.tensor(ball.vertices).float()
    return SurfaceTensors(
        vertices=points,
        faces=faces,
        vertex_normals=points,
        face_uvs=0.5 + 0.47 * points[faces][..., [0, 2]],
    )


@pytest.mark.parametrize(
    ("projection", "height", "width"), [("perspective", 96, 96), ("orthographic", 80, 112)]
)
def test_colours_are_from_the_very_point_and_near_outlines_from_inside(
    projection: str, height: int, width: int
) -> None:
    surface = front_half()
    lens = {"perspective": {}, "orthographic": {"half_extent": 1.15}}[projection]
    camera = CameraRig.orbit(
        azimuths=(-80.0,), elevations=10.0, distance=3.3, projection=projection, **lens
    )
    maps = uv_maps(surface, height=256, width=256, rasterizer=BACKEND)
    columns, rows = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    picture = torch.stack([(columns + 0.5) / width, (rows + 0.5) / height, torch.zeros_like(rows)])
    made = backproject(surface, maps, [picture], camera, rasterizer=BACKEND)
    points = camera.project_to_pixels(maps.position[0][made.seen], height, width)[0][0]
    found = made.color[:2, made.seen].T * torch.tensor([width, height])
    error, trust = (found - points).abs().amax(-1), made.weight[made.seen]
    assert len(error) > 20_000
    # A few roundings to 2^-24 of numbers up to 112, in the filter's sums of 16.
    assert float(error.median()) < 5e-5
    # Trust is full 2.5 pixels beside those that are not used. There the outermost of the filter's
    # weights, 7% at most, may read copies of the nearest used one instead, half a pixel off.
    assert float(error[trust == 1].max()) < 0.05
    assert float(error.max()) < 2.0
