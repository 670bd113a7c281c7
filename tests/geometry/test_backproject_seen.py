"""Which texels a picture shows, and how much each of several pictures counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch.nn.functional import max_pool2d

from seqtex_geometry.backproject import backproject
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import uv_maps
from seqtex_geometry.picture_view import BackprojectSettings, _DepthBuffer
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.surface import SurfaceTensors

BACKEND = choose_rasterizer("embree")


def half_ball(subdivisions: int, scale: float = 1.0) -> SurfaceTensors:
    """The half of a sphere that faces -y, as seen from there in its UV square."""
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    faces = torch.tensor(ball.faces[ball.triangles_center[:, 1] < 0]).long()
    points = torch.tensor(ball.vertices).float()
    return SurfaceTensors(
        vertices=points * scale,
        faces=faces,
        vertex_normals=points,
        face_uvs=0.5 + 0.47 * points[faces][..., [0, 2]],
    )


def squares(*sizes: float) -> SurfaceTensors:
    """Squares that face -y, each half a unit behind the one before."""
    base = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    points = [size * base + [0, 0.5 * k, 0] for k, size in enumerate(sizes)]
    uvs = (base[faces][..., [0, 2]] + 1) / 2
    return SurfaceTensors(
        vertices=torch.tensor(np.concatenate(points)).float(),
        faces=torch.tensor(np.concatenate([faces + 4 * k for k in range(len(sizes))])).long(),
        vertex_normals=torch.tensor([[0.0, -1, 0]]).expand(4 * len(sizes), 3),
        face_uvs=torch.tensor(np.concatenate([uvs] * len(sizes))).float(),
    )


def test_all_of_a_steep_wall_of_small_faces_is_seen() -> None:
    """Where faces are as small as pixels, the pixel nearest to a texel shows another face."""
    columns, rows, cosine = 400, 20, 0.12
    u, v = np.meshgrid(np.linspace(-1, 1, columns + 1), np.linspace(-1, 1, rows + 1))
    slope = (1 - cosine**2) ** 0.5
    points = np.stack([4 * cosine * u, 4 * slope * u, 0.4 * v], axis=-1).reshape(-1, 3)
    corner = np.arange(rows * (columns + 1)).reshape(rows, columns + 1)[:, :-1].reshape(-1, 1)
    first, second = np.array([[0, 1, columns + 2], [0, columns + 2, columns + 1]])
    faces = np.concatenate([corner + first, corner + second])
    uvs = 0.5 + 0.45 * np.stack([u, v], axis=-1).reshape(-1, 2)[faces]
    surface = SurfaceTensors(
        vertices=torch.tensor(points).float(),
        faces=torch.tensor(faces),
        vertex_normals=torch.tensor([slope, -cosine, 0.0]).expand(len(points), 3),
        face_uvs=torch.tensor(uvs).float(),
    )
    camera = CameraRig.orbit(
        azimuths=(-90.0,), elevations=0.0, distance=9.0, projection="orthographic", half_extent=0.6
    )
    maps = uv_maps(surface, height=64, width=512, rasterizer=BACKEND)
    made = backproject(surface, maps, [torch.zeros(3, 128, 128)], camera, rasterizer=BACKEND)
    inside = maps.hit[0] & (maps.position[0][..., [0, 2]].abs() < 0.35).all(-1)
    assert int(inside.sum()) > 10_000
    assert made.seen[inside].all()


def test_what_is_seen_does_not_depend_on_the_unit() -> None:
    def seen(unit: float) -> torch.Tensor:
        surface = half_ball(3, unit)
        camera = CameraRig.orbit(
            azimuths=(-70.0,), elevations=20.0, distance=3.3 * unit, near=0.1 * unit
        )
        maps = uv_maps(surface, height=128, width=128, rasterizer=BACKEND)
        picture = torch.zeros(3, 64, 64)
        return backproject(surface, maps, [picture], camera, rasterizer=BACKEND).seen

    one = seen(1.0)
    assert int(one.sum()) > 4000
    for unit in (0.01, 100.0):
        assert float((one != seen(unit)).float().mean()) < 1e-3  # roundings at the very borders


@pytest.mark.parametrize("power", [0.0, 4.0])
def test_views_count_by_the_cosine_to_a_power(power: float) -> None:
    """A wall seen at 0 and at 60 degrees, whose cosine is a half; both are fully trusted."""
    surface = squares(1.0)
    cameras = CameraRig.orbit(
        azimuths=(-90.0, -30.0),
        elevations=0.0,
        distance=4.0,
        projection="orthographic",
        half_extent=1.2,
    )
    maps = uv_maps(surface, height=32, width=32, rasterizer=BACKEND)
    images = [torch.zeros(3, 128, 128), torch.ones(3, 128, 128)]
    settings = BackprojectSettings(facing_power=power)
    made = backproject(surface, maps, images, cameras, rasterizer=BACKEND, settings=settings)
    middle = (slice(8, 24), slice(8, 24))
    first, second = (weight[middle] for weight in made.view_weights)
    torch.testing.assert_close(second / first, torch.full_like(first, 0.5**power))
    share = 0.5**power / (1 + 0.5**power)
    torch.testing.assert_close(made.color[0][middle], torch.full_like(first, share))


def test_what_lies_beside_the_picture_or_behind_the_camera_is_not_seen() -> None:
    """The camera is between two large floors; through its centre, one is seen for the other."""
    floors = squares(10.0, 10.0)
    surface = SurfaceTensors(
        vertices=floors.vertices[:, [0, 2, 1]] - torch.tensor([0.0, 0.0, 0.25]),
        faces=floors.faces.flip(1),
        vertex_normals=-floors.vertex_normals[:, [0, 2, 1]],
        face_uvs=floors.face_uvs.flip(1),
    )
    camera = CameraRig.orbit(
        azimuths=(-90.0,), elevations=0.0, distance=1.0, target=(0.0, -2.0, 0.0)
    )
    lower = torch.tensor([True, True, False, False])
    maps = uv_maps(surface, height=128, width=128, rasterizer=BACKEND, faces=lower)
    settings = BackprojectSettings(min_facing=0.01)
    picture = torch.zeros(3, 512, 512)
    made = backproject(surface, maps, [picture], camera, rasterizer=BACKEND, settings=settings)
    points, depth = camera.project_to_pixels(maps.position[0].reshape(-1, 3), 512, 512)
    beside = ((points[0] < 0) | (points[0] > 512)).any(-1).reshape(128, 128)
    behind = (depth[0] < camera.near).reshape(128, 128)
    assert int(made.seen.sum()) > 500
    assert int(behind.sum()) > 2000
    assert int((beside & ~behind).sum()) > 2000
    assert not made.seen[beside | behind].any()


def test_depth_jumps_at_all_eight_neighbours_of_an_outline() -> None:
    """A square before a larger one; between them, and at the background, both sides jump."""
    camera = CameraRig.orbit(
        azimuths=(-90.0,), elevations=0.0, distance=4.0, projection="orthographic", half_extent=1.2
    )
    buffer = _DepthBuffer.of(squares(0.4, 1.0), camera, (48, 48), BACKEND)
    layer = torch.where(buffer.face_idx < 0, 2, buffer.face_idx // 2).float()[None, None]
    expected = max_pool2d(layer, 3, 1, 1) > -max_pool2d(-layer, 3, 1, 1)
    assert torch.equal(buffer.jumps(camera), (expected | (layer == 2))[0, 0])
    assert set(layer.unique().tolist()) == {0.0, 1.0, 2.0}
