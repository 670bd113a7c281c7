"""Unwrapping by xatlas, UV reports and tiles."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import InputError, UsageError
from seqtex_geometry import Material, Mesh, load_asset, unwrap, uv_report, wrap_face_uvs
from seqtex_geometry.uv_tiles import BORDER_TOLERANCE, flat_uv_share


def save(mesh, path):
    path.write_bytes(mesh.export(file_type="ply"))
    return load_asset(path).mesh


@pytest.fixture
def knot(tmp_path):
    """A closed surface without UVs, with two faces that have no area."""
    torus = trimesh.creation.torus(1.0, 0.4, major_sections=24, minor_sections=12)
    faces = np.concatenate([torus.faces[:100], [[0, 0, 1], [5, 9, 5]], torus.faces[100:]])
    return save(trimesh.Trimesh(torus.vertices, faces, process=False), tmp_path / "a.ply")


def coverage(face_uvs, size=256):
    """How often each texel centre is covered, plainly."""
    count = np.zeros((size, size), int)
    ticks = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid(ticks, ticks)
    for (a, b), (c, d), (e, f) in face_uvs.astype(np.float64):
        area = (c - a) * (f - b) - (d - b) * (e - a)
        if abs(area) < 1e-12:
            continue
        w1 = ((u - a) * (f - b) - (v - b) * (e - a)) / area
        w2 = ((c - a) * (v - b) - (d - b) * (u - a)) / area
        count += (w1 > 1e-9) & (w2 > 1e-9) & (w1 + w2 < 1 - 1e-9)
    return count


def test_charts_do_not_overlap_and_nothing_moves(knot):
    seconds = []
    made = unwrap(knot, resolution=512, on_progress=seconds.append)
    assert made.vertices is knot.vertices
    assert made.faces is knot.faces
    assert (made.face_texture_set == 0).all()
    assert made.face_uvs.min() >= 0
    assert made.face_uvs.max() <= 1
    count = coverage(made.face_uvs)
    assert count.max() == 1
    assert (count == 1).mean() > 0.4  # xatlas packs a torus to about two thirds
    assert seconds == sorted(seconds)
    assert seconds


def test_faces_without_area_borrow_a_neighbours_uv(knot):
    made = unwrap(knot)
    normal = np.delete(np.arange(len(knot.faces)), [100, 101])
    for row, vertices in ((100, (0, 1)), (101, (5, 9))):
        for corner, vertex in zip(made.face_uvs[row], knot.faces[row], strict=True):
            assert vertex in vertices
            elsewhere = made.face_uvs[normal][knot.faces[normal] == vertex]
            assert (elsewhere == corner).all(axis=1).any()


def test_a_corner_that_no_chart_has_borrows_from_its_own_face(tmp_path):
    """A face without area must not span the texture, over other faces' texels."""
    box = trimesh.creation.box()
    vertices = np.concatenate([box.vertices, box.vertices[3:4]])
    faces = np.concatenate([box.faces, [[3, 8, 1]]])
    mesh = save(trimesh.Trimesh(vertices, faces, process=False), tmp_path / "a.ply")
    *others, (a, b, c) = unwrap(mesh).face_uvs
    others = np.array(others)
    owned = {vertex: others[mesh.faces[:-1] == vertex] for vertex in (3, 1)}
    assert (owned[3] == a).all(axis=1).any()
    assert (owned[1] == c).all(axis=1).any()
    assert b.tolist() in (a.tolist(), c.tolist())


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_size_of_the_object_does_not_matter(knot, scale):
    small = replace(knot, vertices=(knot.vertices * scale).astype(np.float32))
    made = unwrap(small)
    edges = made.face_uvs[:, 1:] - made.face_uvs[:, :1]
    areas = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    assert np.abs(areas).sum() / 2 > 0.4


def test_instances_get_the_uvs_of_the_first(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive(uvs=False))
    maker.document["nodes"].append({"mesh": 0, "scale": [-1, 1, 1]})
    maker.document["scenes"][0]["nodes"].append(1)
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    made = unwrap(mesh)
    first, second = made.face_uvs[:12], made.face_uvs[12:]
    assert np.array_equal(first[:, [0, 2, 1]], second)
    assert np.array_equal(
        mesh.vertices[mesh.faces[:12]][:, [0, 2, 1]] * (-1, 1, 1), mesh.vertices[mesh.faces[12:]]
    )


def test_timeout_stops_the_child(knot, tmp_path, monkeypatch):
    from seqtex_geometry import charts

    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(charts, "_WORKER", slow)
    start = time.perf_counter()
    with pytest.raises(InputError, match="--charts directions"):
        unwrap(knot, timeout_s=0.3)
    assert time.perf_counter() - start < 30  # far from the minute that the child would take


def test_failure_of_the_child_is_told(knot, tmp_path, monkeypatch):
    from seqtex_geometry import charts

    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(charts, "_WORKER", broken)
    with pytest.raises(InputError, match="out of luck"):
        unwrap(knot)


def test_interruption_stops_the_child(knot, monkeypatch):
    import subprocess

    started = []
    plain = subprocess.Popen

    def remember(*args, **kwargs):
        started.append(plain(*args, **kwargs))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", remember)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unwrap(knot, on_progress=interrupt)
    assert started[0].poll() is not None


def test_wrong_sizes(knot):
    with pytest.raises(UsageError):
        unwrap(knot, resolution=0)


def flat_mesh(uvs):
    """Faces with these UVs, all at one place."""
    count = len(uvs)
    return Mesh(
        vertices=np.zeros((3, 3), np.float32),
        faces=np.tile([0, 1, 2], (count, 1)),
        vertex_normals=np.zeros((3, 3), np.float32),
        face_uvs=np.asarray(uvs, np.float32),
        face_material=np.zeros(count, np.int64),
        materials=(Material(name="m"),),
        face_primitive=np.zeros(count, np.int64),
        face_texture_set=np.zeros(count, np.int64),
    )


def test_report_counts():
    good = [[0, 0], [1, 0], [0, 1]]
    uvs = np.array(
        [good, np.add(good, 3), [[0, 0], [0, 1], [1, 0]], [[0.5, 0], [1.5, 0], [0.5, 1]],
         [[0.2, 0.2]] * 3, [[np.nan] * 2] * 3], np.float32)  # fmt: skip
    report = uv_report(flat_mesh(uvs))
    assert (report.num_faces, report.without_uvs) == (5, 1)
    assert report.out_of_range == pytest.approx(2 / 5)
    assert report.spanning == pytest.approx(1 / 5)
    assert report.degenerate == pytest.approx(1 / 5)
    assert report.mirrored == pytest.approx(1 / 5)


@given(data=st.lists(st.tuples(*[st.floats(-3, 3, width=32)] * 6), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_point_of_a_face_is_in_a_copy(data):
    uvs = np.array(data, np.float32).reshape(-1, 3, 2)
    copies, source = wrap_face_uvs(uvs)
    assert (np.diff(source) >= 0).all()
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], size=20)
    for face, corners in enumerate(uvs.astype(np.float64)):
        shifts = (copies[source == face].astype(np.float64) - corners).mean(axis=1).round()
        assert np.allclose(copies[source == face], corners + shifts[:, None], atol=1e-6)
        for point in weights @ corners:
            inside = (point + shifts >= -2 * BORDER_TOLERANCE) & (
                point + shifts <= 1 + 2 * BORDER_TOLERANCE
            )
            edges = corners[1:] - corners[0]
            area = abs(edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0])
            assert inside.all(axis=1).any() or area < 1e-9


@pytest.mark.parametrize("shift", [-4e-4, 0.0, 4e-4])
def test_near_misses_are_not_repeated(shift):
    square = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], np.float32)
    copies, source = wrap_face_uvs(square + np.float32(shift))
    assert source.tolist() == [0, 1]
    assert np.array_equal(copies, square + np.float32(shift))


def test_a_diagonal_face_skips_tiles_it_does_not_touch():
    sliver = np.array([[[0, 0], [3, 3], [3, 3.01]]], np.float32)
    copies, _ = wrap_face_uvs(sliver)
    assert len(copies) == 6  # two per step along the diagonal; its bounding box has 12 tiles


def test_a_face_that_only_touches_the_corner_of_a_tile_is_not_repeated_there():
    triangle = np.array([[2, 0], [2, 2], [0, 2]], np.float32)
    _, source = wrap_face_uvs(np.stack([triangle, triangle[::-1]]))  # wound either way
    assert source.tolist() == [0] * 3 + [1] * 3


@pytest.mark.parametrize(("size", "share"), [(0.0, 1.0), (1e-3, 1.0), (0.02, 0.0), (0.3, 0.0)])
def test_faces_on_next_to_no_texels_are_counted_by_their_surface(size, share):
    """Six triangles of equal surface: a thousandth of an even spread is a side of 0.018."""
    triangle = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    mesh = replace(
        flat_mesh(np.tile(0.4 + size * triangle[:, :2], (6, 1, 1))),
        vertices=(triangle + 2 * np.arange(6, dtype=np.float32)[:, None, None]).reshape(-1, 3),
        faces=np.arange(18).reshape(6, 3),
    )
    assert flat_uv_share(mesh) == pytest.approx(share)
    mixed = mesh.face_uvs.copy()
    mixed[:2] = triangle[:, :2]
    assert flat_uv_share(replace(mesh, face_uvs=mixed)) == pytest.approx(4 / 6 * share)


def test_too_many_tiles():
    assert len(wrap_face_uvs(np.array([[[0, 0], [8, 0], [0, 8]]], np.float32))[0]) == 36
    with pytest.raises(InputError, match="--unwrap"):
        wrap_face_uvs(np.array([[[0, 0], [20, 0], [0, 20]]], np.float32))
