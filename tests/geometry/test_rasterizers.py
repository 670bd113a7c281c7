"""Views through every rasterizer backend that runs here: hand-written pictures.

The fixture ``rasterizer`` is every backend; for Kaolin, which needs CUDA, a stand-in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rasterizer_scenes import surface_of, wall

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.rasterize import RASTERIZERS, Rasterizer
from seqtex_geometry.surface import SurfaceTensors

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
