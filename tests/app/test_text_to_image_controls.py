"""Control images: axes, brightness and background, on shapes whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from seqtex.prepare import PreparedJob, prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.text_to_image.control_images import draw_control_images, inverse_depth
from seqtex_core.errors import UsageError
from seqtex_geometry.maps import SurfaceMaps

SIZE = 64
MIDDLE = SIZE // 2


def job_of(mesh: trimesh.Trimesh, path: Path) -> PreparedJob:
    mesh.export(path)
    return prepare_job(path, options=PrepareOptions(uv="as_is", device="cpu"))


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> PreparedJob:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return job_of(sphere, tmp_path_factory.mktemp("ball") / "ball.ply")


def depth_maps(depths: list[float]) -> SurfaceMaps:
    """One row of pixels; depth 0 is background."""
    depth = torch.tensor(depths)[None, None]
    zeros = torch.zeros(*depth.shape, 3)
    return SurfaceMaps(
        face_idx=torch.where(depth > 0, 0, -1),
        barycentrics=zeros,
        position=zeros,
        normal=zeros,
        mask=(depth > 0).float(),
        depth=depth,
    )


def test_near_is_white_and_brightness_is_linear_in_inverse_depth() -> None:
    # 1/1, 1/2, 1/4: the middle one is a third of the way from the farthest to the nearest.
    shades = inverse_depth(depth_maps([1.0, 2.0, 4.0, 0.0]))[0, 0]
    assert torch.allclose(shades, torch.tensor([1.0, 0.2 + 0.8 / 3, 0.2, 0.0]), atol=1e-6)


def test_a_surface_of_one_depth_is_white() -> None:
    assert inverse_depth(depth_maps([3.0, 3.0, 0.0]))[0, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("view", ["front", "left", "back", "right"])
def test_a_ball_looks_the_same_from_every_side(ball: PreparedJob, view: str) -> None:
    controls = draw_control_images(ball, view, size=SIZE, normal_convention="opengl")
    inside = controls.mask[0] > 0.99
    # The true normals: pixel -> ray -> where it meets the unit ball about the origin.
    camera = ball.cameras.select(view)
    origins, directions = (one[0] for one in camera.rays(SIZE, SIZE))
    unit = torch.nn.functional.normalize(directions, dim=-1)
    along = (origins * unit).sum(-1)
    reach = along.square() - origins.square().sum(-1) + 1.0
    points = origins + unit * (-along - reach.clamp(min=0).sqrt())[..., None]
    expected = (points @ camera.world_to_camera[0, :3, :3].T).permute(2, 0, 1) / 2 + 0.5
    assert inside.sum() > 500
    # 2560 flat triangles: normals interpolated between corners 4 degrees apart, averaged over 2 x 2
    # samples; an axis swapped or flipped would differ by up to 1.
    assert (controls.normal - expected)[:, inside].abs().max() < 0.02


def test_bae_has_red_to_the_left_and_opengl_to_the_right(ball: PreparedJob) -> None:
    bae = draw_control_images(ball, "front", size=SIZE).normal
    gl = draw_control_images(ball, "front", size=SIZE, normal_convention="opengl").normal
    left, right, top = (MIDDLE, MIDDLE - 16), (MIDDLE, MIDDLE + 15), (MIDDLE - 16, MIDDLE)
    assert bae[0][left] > 0.75 > 0.25 > bae[0][right]
    assert gl[0][right] > 0.75 > 0.25 > gl[0][left]
    assert bae[1][top] > 0.75
    assert torch.allclose(gl[0], 1 - bae[0], atol=1e-6)
    assert torch.equal(gl[1:], bae[1:])


def test_background_is_black_and_faces_the_camera(ball: PreparedJob) -> None:
    controls = draw_control_images(ball, "front", size=SIZE)
    corner = (slice(None), 0, 0)
    assert controls.depth[corner].tolist() == [0.0, 0.0, 0.0]
    assert controls.normal[corner].tolist() == [0.5, 0.5, 1.0]
    assert controls.mask[corner].tolist() == [0.0]
    assert controls.depth[0].max() == pytest.approx(1.0, abs=0.01)  # averaged over 2 x 2 samples


def test_inside_out_faces_look_like_any_other(ball: PreparedJob, tmp_path: Path) -> None:
    inverted = trimesh.creation.icosphere(subdivisions=4)
    inverted.invert()
    other = job_of(inverted, tmp_path / "inverted.ply")
    pictures = [draw_control_images(job, "front", size=SIZE).normal for job in (ball, other)]
    # Corner order only changes rounding; normals that point inwards would differ by up to 1.
    assert (pictures[0] - pictures[1]).abs().max() < 1e-3


def test_unknown_views_are_refused(ball: PreparedJob) -> None:
    with pytest.raises(UsageError, match="view name"):
        draw_control_images(ball, "top", size=SIZE)


def test_edges_are_antialiased(ball: PreparedJob) -> None:
    mask: Tensor = draw_control_images(ball, "front", size=SIZE).mask
    assert 0 < int(((mask > 0) & (mask < 1)).sum()) < 4 * SIZE
