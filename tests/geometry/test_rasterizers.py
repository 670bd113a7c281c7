"""One conformance suite over every rasterizer backend that runs here.

Kaolin needs CUDA. Its adapter is held to the same suite with a stand-in that does what Kaolin's
documentation and kernel say: layout, pixel centres, bounding boxes, strictness, ties.
"""

from __future__ import annotations

import sys
import types
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
import trimesh

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.rasterize import RASTERIZERS, Rasterizer
from seqtex_geometry.surface import SurfaceTensors

NAMES = ("reference", "embree", "warp", "kaolin")


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


@pytest.fixture(params=NAMES)
def rasterizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rasterizer:
    backend = RASTERIZERS.get(request.param)
    if request.param == "kaolin":
        names = ("kaolin", "kaolin.render", "kaolin.render.mesh")
        modules = {name: types.ModuleType(name) for name in names}
        modules["kaolin.render.mesh"].rasterize = kaolin_rasterize
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return backend
    reason = backend.reason_unsupported(torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    return backend


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


QUAD = np.array([[0, 1, 2], [0, 2, 3]])


def front_rig(projection: str = "perspective", **more: float) -> CameraRig:
    """Looks along +y from y = -4; the square of edge 2 at y = 0 spans 77 per cent of the view."""
    return CameraRig.orbit(
        azimuths=(-90.0,),
        elevations=0.0,
        distance=4.0,
        projection=projection,
        half_extent=1.3 / 4 if projection == "perspective" else 1.3,
        **more,
    )


def views(rasterizer: Rasterizer, surface: SurfaceTensors, rig: CameraRig, size: int) -> list:
    return rasterizer.face_idx_views(surface, rig, height=size, width=size)[0].tolist()


def uv(rasterizer: Rasterizer, faces: object, height: int, width: int) -> list:
    face_uvs = torch.as_tensor(np.asarray(faces), dtype=torch.float32).reshape(-1, 3, 2)
    result = rasterizer.face_idx_uv(face_uvs, height=height, width=width)
    assert result.dtype == torch.int64
    return result.tolist()


# --- UV space ------------------------------------------------------------------------------------


def test_uv_row_0_is_v_1_and_texels_are_owned_by_their_centres(rasterizer: Rasterizer) -> None:
    low = [[0.0, 0.0], [0.9, 0.0], [0.0, 0.9]]  # lower left
    high = [[1.0, 1.0], [1.0, 0.55], [0.55, 1.0]]  # upper right
    assert uv(rasterizer, [low, high], 4, 4) == [
        [-1, -1, -1, 1],
        [0, -1, -1, -1],
        [0, 0, -1, -1],
        [0, 0, 0, -1],
    ]


def test_uv_maps_may_be_oblong(rasterizer: Rasterizer) -> None:
    left = [[[0, 0], [0.49, 0], [0.49, 1]], [[0, 0], [0.49, 1], [0, 1]]]
    assert [[x >= 0 for x in row] for row in uv(rasterizer, left, 2, 5)] == [[1, 1, 0, 0, 0]] * 2


def test_uv_winding_does_not_matter(rasterizer: Rasterizer) -> None:
    faces = np.array([[[0, 0], [1, 0], [0.5, 1]]])
    one, other = uv(rasterizer, faces, 7, 7), uv(rasterizer, faces[:, ::-1].copy(), 7, 7)
    assert one == other
    assert sum(row.count(0) for row in one) > 20


def test_uv_overlaps_go_to_the_lowest_index(rasterizer: Rasterizer) -> None:
    inner = np.array([[0.21, 0.21], [0.79, 0.21], [0.51, 0.79]])
    outer = np.array([[0.01, 0.01], [0.99, 0.02], [0.52, 0.98]])
    first_outer = uv(rasterizer, [outer, inner, inner[::-1]], 31, 31)
    first_inner = uv(rasterizer, [inner, outer, outer[[1, 2, 0]]], 31, 31)
    assert {x for row in first_outer for x in row} == {-1, 0}
    assert {x for row in first_inner for x in row} == {-1, 0, 1}
    assert [[x >= 0 for x in row] for row in first_outer] == [
        [x >= 0 for x in row] for row in first_inner
    ]


def test_uv_faces_without_area_or_with_nan_are_not_seen(rasterizer: Rasterizer) -> None:
    point = [[0.5, 0.5]] * 3
    line = [[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]]
    slant = [[0.0, 0.0], [0.3, 0.3], [1.0, 1.0]]
    missing = [[np.nan, 0.0], [1.0, 0.0], [0.0, 1.0]]
    real = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert {x for row in uv(rasterizer, [point, line, slant, missing], 5, 5) for x in row} == {-1}
    seen = uv(rasterizer, [point, line, slant, missing, real], 5, 5)
    assert {x for row in seen for x in row} == {-1, 4}
    assert seen[4] == [4, 4, 4, 4, 4]


def test_uv_nothing_to_draw(rasterizer: Rasterizer) -> None:
    assert uv(rasterizer, [], 3, 2) == [[-1, -1]] * 3


def test_uv_faces_may_stick_out_of_the_square(rasterizer: Rasterizer) -> None:
    assert uv(rasterizer, [[[-9, -9], [9, -9], [0, 20]]], 2, 2) == [[0, 0], [0, 0]]


def test_uv_triangulated_square_has_no_cracks(rasterizer: Rasterizer) -> None:
    points = np.random.default_rng(3).random((400, 2))
    points = np.concatenate([points, [[0, 0], [1, 0], [0, 1], [1, 1]]])
    from scipy.spatial import Delaunay

    faces = points[Delaunay(points).simplices]
    found = np.array(uv(rasterizer, faces, 97, 101))
    assert (found >= 0).all()


# --- views ---------------------------------------------------------------------------------------


def walls(rasterizer: Rasterizer, surface: SurfaceTensors, rig: CameraRig, size: int) -> list:
    """Which square (two faces each) every pixel shows."""
    found = rasterizer.face_idx_views(surface, rig, height=size, width=size)
    assert found.dtype == torch.int64
    return torch.div(found[0], 2, rounding_mode="floor").tolist()


def squares(*corners: np.ndarray) -> SurfaceTensors:
    faces = np.concatenate([QUAD + 4 * i for i in range(len(corners))])
    return surface_of(np.concatenate(corners), faces)


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_view_of_a_small_square_before_a_large_one(rasterizer: Rasterizer, projection: str) -> None:
    shifted = wall(-0.5, 0.5) + np.array([0.25, 0, 0.25])  # to the right and up
    for surface, far, near in (
        (squares(wall(0.0), shifted), 0, 1),
        (squares(shifted, wall(0.0)), 1, 0),
    ):
        assert walls(rasterizer, surface, front_rig(projection), 5) == [
            [-1, -1, -1, -1, -1],
            [-1, far, near, near, -1],
            [-1, far, near, near, -1],
            [-1, far, far, far, -1],
            [-1, -1, -1, -1, -1],
        ]


def test_back_faces_are_seen_and_hide_what_is_behind(rasterizer: Rasterizer) -> None:
    turned = wall(-0.5, 0.4)[::-1].copy()
    assert walls(rasterizer, squares(wall(0.0), turned), front_rig(), 5) == [
        [-1, -1, -1, -1, -1],
        [-1, 0, 0, 0, -1],
        [-1, 0, 1, 0, -1],
        [-1, 0, 0, 0, -1],
        [-1, -1, -1, -1, -1],
    ]


def test_oblong_view_keeps_pixels_square(rasterizer: Rasterizer) -> None:
    found = rasterizer.face_idx_views(squares(wall(0.0)), front_rig(), height=5, width=9)[0] >= 0
    assert found.int().tolist() == np.pad(np.ones((3, 3), int), ((1, 1), (3, 3))).tolist()


def test_every_camera_gets_its_own_picture(rasterizer: Rasterizer) -> None:
    rig = CameraRig.orbit(
        azimuths=(-90.0, 0.0, 90.0), elevations=0.0, distance=4.0, half_extent=1.3 / 4
    )
    found = rasterizer.face_idx_views(squares(wall(0.0)), rig, height=5, width=5)
    assert found.shape == (3, 5, 5)
    assert (found >= 0).sum((1, 2)).tolist() == [9, 0, 9]  # edge-on from the side


def test_faces_nearer_than_the_near_plane_are_not_seen(rasterizer: Rasterizer) -> None:
    surface = squares(wall(-1.0), wall(0.0))
    assert walls(rasterizer, surface, front_rig(near=2.9), 5)[2][2] == 0
    assert walls(rasterizer, surface, front_rig(near=3.1), 5)[2][2] == 1


def test_faces_beyond_the_far_plane_are_not_seen(rasterizer: Rasterizer) -> None:
    from dataclasses import replace

    surface = squares(wall(0.0))
    assert walls(rasterizer, surface, replace(front_rig(), far=4.1), 5)[2][2] == 0
    assert walls(rasterizer, surface, replace(front_rig(), far=3.9), 5)[2][2] == -1


@pytest.mark.parametrize("near", [0.5, 3.0, 5.0])
def test_a_floor_that_runs_under_and_behind_the_camera(rasterizer: Rasterizer, near: float) -> None:
    floor = np.array([[-30.0, -30, -1], [30, -30, -1], [30, 30, -1], [-30, 30, -1]])
    found = np.array(walls(rasterizer, squares(floor), front_rig(near=near), 64)) == 0
    # 1 below the eye and seen at depth d, the floor is at row (0.5 + 0.5 / (0.325 d)) of 1; the
    # near plane cuts the bottom, the floor's far edge is 34 away.
    rows = (np.arange(64) + 0.5) / 64
    depth = 1 / (0.325 * np.maximum(2 * rows - 1, 1e-9))
    assert np.array_equal(found, np.repeat(((depth > near) & (depth < 34))[:, None], 64, axis=1))


def test_degenerate_faces_are_not_seen(rasterizer: Rasterizer) -> None:
    vertices = [[0, 0, 0], [0.5, 0, 0.5], [1, 0, 1], [np.nan, 0, 0], *wall(1.0).tolist()]
    faces = [[0, 1, 2], [0, 0, 1], [0, 1, 3], [4, 5, 6], [4, 6, 7]]
    found = rasterizer.face_idx_views(surface_of(vertices, faces), front_rig(), height=9, width=9)
    assert set(found.unique().tolist()) == {-1, 3, 4}


@pytest.mark.parametrize("faces", [[], [[0, 0, 0]]])
def test_nothing_to_see(rasterizer: Rasterizer, faces: list) -> None:
    surface = surface_of([[0.0, 0, 0]], faces)
    found = rasterizer.face_idx_views(surface, front_rig(), height=2, width=3)
    assert found.tolist() == [[[-1] * 3] * 2]


def test_reference_gives_equal_depth_to_the_lowest_index() -> None:
    reference = RASTERIZERS.get("reference")
    corners = wall(0.0)
    surface = surface_of(corners, [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 3]])
    found = reference.face_idx_views(surface, front_rig(), height=16, width=16)[0]
    assert set(found.unique().tolist()) == {-1, 0, 3}
    assert (found.diagonal(offset=0).flip(0)[3:-3] >= 0).all()
    # the shared diagonal runs from lower left to upper right through pixel centres
    assert found.fliplr().diagonal()[2:-2].tolist() == [0] * 12


# --- against the reference -----------------------------------------------------------------------


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
