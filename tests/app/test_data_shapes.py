from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex.data.charts import unwrapped
from seqtex.data.object_mesh import draw_object_mesh, is_mirrored
from seqtex.data.packing import pack_rectangles
from seqtex.data.shapes.families import SHAPE_FAMILIES
from seqtex.data.shapes.normals import corner_normals
from seqtex.data.shapes.part import Part, is_closed, joined
from seqtex.data.shapes.solids import box, ellipsoid, tube
from seqtex.data.shapes.surface_nets import implicit_part
from seqtex.data.synth import object_rng
from seqtex_core.errors import UsageError

FAMILIES = SHAPE_FAMILIES.names()


@pytest.mark.parametrize("family", FAMILIES)
def test_families_make_sound_meshes(family):
    for seed in range(2):
        shape = SHAPE_FAMILIES.get(family)(object_rng(seed, 5))
        assert 200 <= sum(len(part.faces) for part in shape.parts) <= 8000
        assert len(shape.labels) == len(shape.parts)
        assert sorted(set(shape.labels)) == list(range(max(shape.labels) + 1))
        for part in shape.parts:
            assert np.isfinite(part.vertices).all()
            assert (part.faces != np.roll(part.faces, 1, axis=1)).all()
            if part.closed:
                assert is_closed(part.faces)
                assert part.signed_volume() > 0


def test_family_is_a_function_of_the_stream():
    for family in FAMILIES[::6]:
        first, again, other = (SHAPE_FAMILIES.get(family)(object_rng(s, 1)) for s in (3, 3, 4))
        a, b, c = (joined(s.parts, crease=0.0).vertices for s in (first, again, other))
        assert np.array_equal(a, b)
        assert a.shape != c.shape or not np.allclose(a, c)


def test_open_and_inside_out_meshes_are_recognised():
    ball = ellipsoid(detail=6)
    assert is_closed(ball.faces)
    assert not is_closed(ball.faces[1:])
    inside_out = ball.flipped()
    assert inside_out.signed_volume() < 0
    assert inside_out.oriented().signed_volume() == pytest.approx(ball.signed_volume())
    assert ball.mirrored().signed_volume() > 0


def test_surface_nets_of_a_ball():
    part = implicit_part(
        lambda p: np.linalg.norm(p, axis=1) - 0.8, bound=1.0, resolution=24, refine=2
    )
    assert is_closed(part.faces)
    # Vertices are pulled onto the sphere by Newton steps, which are exact for a true distance.
    assert np.abs(np.linalg.norm(part.vertices, axis=1) - 0.8).max() < 1e-6
    # An inscribed mesh of cells h loses about (h / 2r)^2 of the volume: 0.3 % here.
    assert part.signed_volume() == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.01)


def test_solids_have_their_sizes():
    cube = box((1.0, 2.0, 3.0), center=(1, 0, 0))
    assert cube.signed_volume() == pytest.approx(6.0)
    rounded = box((1.0, 2.0, 3.0), bevel=0.2, rounds=3)
    assert 4.0 < rounded.signed_volume() < 6.0
    path = np.linspace((0, 0, 0), (0, 0, 2), 9)
    pipe = tube(path, np.full(9, 0.5), sides=64)
    assert pipe.signed_volume() == pytest.approx(np.pi * 0.25 * 2, rel=0.002)  # 64-gon: 0.16 %
    assert is_closed(pipe.faces)


def test_crease_decides_between_hard_and_smooth():
    cube = box((2, 2, 2))
    hard = corner_normals(cube.vertices, cube.faces, np.full(len(cube.faces), 30.0))
    smooth = corner_normals(cube.vertices, cube.faces, np.full(len(cube.faces), 180.0))
    assert np.allclose(np.sort(np.abs(hard), axis=-1), [0, 0, 1])
    assert np.allclose(np.abs(smooth), 3**-0.5)  # angle weights make the corner symmetric


def test_mirror_is_detected():
    ball = ellipsoid(detail=8)
    assert is_mirrored(ball.vertices)
    assert not is_mirrored(ball.moved(x=0.3).vertices)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.01, 3)), min_size=1, max_size=40),
    st.sampled_from([0.004, 0.016]),
)
def test_packed_rectangles_keep_apart(sizes, padding):
    sizes = np.array(sizes)
    origins, scale = pack_rectangles(sizes, padding=padding)
    low, high = origins, origins + sizes * scale
    assert scale > 0
    assert low.min() >= padding - 1e-12
    assert high.max() <= 1 - padding + 1e-12
    for k in range(len(sizes)):
        apart = (low[k] >= high + padding - 1e-9) | (high[k] + padding - 1e-9 <= low)
        apart[k] = True
        assert apart.any(axis=1).all()


@pytest.mark.parametrize("style", ["natural", "box", "xatlas", "xatlas_small", "xatlas_large"])
def test_charts_fill_the_square_without_overlap(style):
    part = joined([ellipsoid(detail=7), box((1, 1, 1), center=(2, 0, 0), bevel=0.1)], crease=30)
    uv, kept = unwrapped(object_rng(1), part, style)
    assert uv.shape == (len(kept), 3, 2)
    assert uv.min() >= 0
    assert uv.max() <= 1
    area = _area(uv)
    assert area > 0.2
    size = 400
    # Pixel centres covered by each face, counted twice where faces overlap: a pixel on a border
    # is counted at most once more per side, which is far below the tolerance.
    count = sum(_covered(face, size) for face in uv)
    assert (count > 1).sum() / (count > 0).sum() < 0.01


def _area(uv):
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2


def _covered(face, size):
    """Grid ``[size, size]`` of the pixel centres strictly inside a triangle."""
    grid = np.zeros((size, size), dtype=np.int8)
    low = np.clip((face.min(axis=0) * size).astype(int), 0, size - 1)
    high = np.clip((face.max(axis=0) * size).astype(int) + 1, 1, size)
    x, y = np.meshgrid(*(np.arange(a, b) + 0.5 for a, b in zip(low, high, strict=True)))
    sides = []
    for k in range(3):
        (ax, ay), (bx, by) = face[k] * size, face[(k + 1) % 3] * size
        sides.append((bx - ax) * (y - ay) - (by - ay) * (x - ax))
    inside = np.all(np.array(sides) > 1e-9, axis=0) | np.all(np.array(sides) < -1e-9, axis=0)
    grid[low[1] : high[1], low[0] : high[0]] = inside
    return grid


def test_object_mesh_is_normalised_and_keeps_its_frame():
    for index in range(6):
        mesh = draw_object_mesh(object_rng(11, index), FAMILIES)
        size = np.ptp(mesh.vertices, axis=0)
        assert size.max() == pytest.approx(2.0, abs=1e-5)
        middle = (mesh.vertices.max(axis=0) + mesh.vertices.min(axis=0)) / 2
        assert np.abs(middle).max() < 1e-5
        assert np.allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-5)
        turn = mesh.frame[:, :3]
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-5)
        if mesh.symmetric:
            assert is_mirrored(mesh.vertices @ turn.T + mesh.frame[:, 3], 0.03)


def test_unknown_family_is_refused():
    with pytest.raises(UsageError, match="lathe"):
        draw_object_mesh(object_rng(0), ["lath"])


def test_part_mirror_keeps_charts_with_their_corners():
    ball = ellipsoid(detail=6)
    mirror = ball.mirrored()
    back = mirror.mirrored()
    assert isinstance(mirror, Part)
    assert np.array_equal(back.faces, ball.faces)
    assert np.array_equal(back.corner_uv, ball.corner_uv)
    assert np.allclose(back.vertices, ball.vertices)
