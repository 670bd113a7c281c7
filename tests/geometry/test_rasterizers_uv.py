"""UV maps through every rasterizer backend: texels, overlaps, what has no area."""

from __future__ import annotations

import numpy as np
import torch

from seqtex_geometry.rasterize import Rasterizer


def uv(rasterizer: Rasterizer, faces: object, height: int, width: int) -> list:
    face_uvs = torch.as_tensor(np.asarray(faces), dtype=torch.float32).reshape(-1, 3, 2)
    result = rasterizer.face_idx_uv(face_uvs, height=height, width=width)
    assert result.dtype == torch.int64
    return result.tolist()


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
