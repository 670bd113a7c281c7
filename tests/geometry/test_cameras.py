"""Camera rigs: the released numbers, rays against projection, mirrored cameras, bad arguments."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import UsageError
from seqtex_geometry.cameras import CameraRig


def _rig(projection: str = "perspective") -> CameraRig:
    return CameraRig.orbit(
        azimuths=(20.0, -130.0),
        elevations=(35.0, -60.0),
        distance=4.0,
        half_extent=0.4 if projection == "perspective" else 1.3,
        projection=projection,
        target=(0.1, -0.2, 0.3),
    )


def test_seqtex_rig_is_the_released_one() -> None:
    diagonal = 2.7
    rig = CameraRig.seqtex(diagonal=diagonal)
    radius = 50 / 36 * diagonal
    assert rig.names == ("front", "left", "back", "right")
    assert rig.half_extent == pytest.approx(0.36)
    assert 2 * math.degrees(math.atan(rig.half_extent)) == pytest.approx(39.5978, abs=1e-4)
    assert (rig.near, rig.far, rig.projection) == (0.1, 1000.0, "perspective")
    el = math.radians(10)
    for azimuth, center in zip((-90, 0, 90, 180), rig.centers(), strict=True):
        az = math.radians(azimuth)
        expected = torch.tensor(
            [math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el)]
        )
        # fp32 matrices times a distance of 3.75: a few ulp
        torch.testing.assert_close(center, radius * expected, atol=2e-6, rtol=0)


def test_orbits_are_around_their_target() -> None:
    target = torch.tensor([0.1, -0.2, 0.3])
    rig = _rig()
    torch.testing.assert_close(rig.centers() + 4.0 * rig.forwards(), target.expand(2, 3))
    place, depth = rig.project(target[None])
    torch.testing.assert_close(place[:, 0], torch.zeros(2, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(depth[:, 0], torch.full((2,), 4.0))


def test_front_view_has_world_x_right_world_z_up_and_sees_minus_y() -> None:
    front = CameraRig.seqtex(diagonal=3.0).select("front")
    origin, right, up = front.project(torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 0.5]]))[0][0]
    torch.testing.assert_close(origin, torch.zeros(2), atol=1e-6, rtol=0)
    assert right[0] > 0.2
    assert abs(right[1]) < 1e-6
    assert up[1] > 0.2
    assert abs(up[0]) < 1e-6
    assert front.centers()[0, 1] < 0
    left = CameraRig.seqtex(diagonal=3.0).select("left")
    assert left.centers()[0, 0] > 0  # facing -y with z up, the object's left hand is at +x


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 5), (3, 8), (9, 2)])
def test_rays_pass_through_pixel_centres(projection: str, height: int, width: int) -> None:
    rig = _rig(projection)
    origins, directions = rig.rays(height, width)
    assert origins.shape == directions.shape == (2, height, width, 3)
    for depth in (0.5, 7.0):
        points = (origins + depth * directions).reshape(2, -1, 3)
        pixels, depths = rig.project_to_pixels(points, height, width)
        rows, columns = torch.meshgrid(
            torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
        )
        expected = torch.stack([columns, rows], -1).reshape(1, -1, 2).expand_as(pixels)
        # fp32 positions of size 8 over pixels of size 0.04: below 1e-4 pixels
        torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(depths, torch.full_like(depths, depth), atol=5e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    azimuth=st.floats(-360, 360),
    elevation=st.floats(-90, 90),
    axis=st.sampled_from(["x", "y", "z"]),
)
def test_mirrored_camera_sees_the_mirror_image(azimuth: float, elevation: float, axis: str) -> None:
    rig = CameraRig.orbit(azimuths=[azimuth], elevations=elevation, distance=5.0)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    flipped = points.clone()
    flipped[:, "xyz".index(axis)] *= -1
    for got, want in zip(rig.mirrored(axis).project(points), rig.project(flipped), strict=True):
        torch.testing.assert_close(got, want)
    rotation = rig.world_to_camera[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.det(rotation) == pytest.approx(1.0, abs=1e-5)


def test_select_reorders_and_unknown_views_are_named() -> None:
    rig = CameraRig.seqtex(diagonal=1.0)
    part = rig.select("back", "front")
    assert part.names == ("back", "front")
    assert torch.equal(part.world_to_camera, rig.world_to_camera[[2, 0]])
    with pytest.raises(UsageError, match="front, left, back, right"):
        rig.index("top")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"azimuths": (0.0, 1.0), "elevations": (0.0,), "distance": 1.0}, "as many elevations"),
        ({"azimuths": (0.0,), "elevations": 0.0, "distance": 0.0}, "positive"),
        ({"azimuths": (0.0,), "elevations": 0.0, "distance": math.nan}, "positive"),
        ({"azimuths": (), "elevations": 0.0, "distance": 1.0}, "at least one"),
        ({"azimuths": (0, 1), "elevations": 0.0, "distance": 1.0, "names": ("a", "a")}, "unique"),
        ({"azimuths": (0,), "elevations": 0.0, "distance": 1.0, "near": -1.0}, "near"),
        ({"azimuths": (0,), "elevations": 0.0, "distance": 1.0, "projection": "fish"}, "fish"),
    ],
)
def test_bad_rigs_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CameraRig.orbit(**arguments)
