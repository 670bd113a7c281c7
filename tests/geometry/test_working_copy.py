"""Axes, the working copy, smooth normals, lazy imports."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import InputError, UsageError
from seqtex_geometry import export_textured, load_asset, normalize, smooth_normals
from seqtex_geometry.axes import AXIS_NAMES, Axes, axis_vector, choose_axes

AXIS_PAIRS = [(up, front) for up in AXIS_NAMES for front in AXIS_NAMES if up[-1] != front[-1]]


def test_gltf_axes_map_as_documented():
    assert np.array_equal(Axes().rotation() @ [1.0, 2.0, 3.0], [1.0, -3.0, 2.0])


@pytest.mark.parametrize(("up", "front"), AXIS_PAIRS)
def test_every_pair_of_axes_is_a_rotation(up, front):
    axes = choose_axes("obj", up, front)
    turned = axes.rotation()
    assert np.linalg.det(turned) == 1.0
    assert np.array_equal(turned @ axis_vector(up), [0, 0, 1])
    assert np.array_equal(turned @ axis_vector(front), [0, -1, 0])


@pytest.mark.parametrize(("up", "front"), [("q", None), ("", None), ("y", "-y"), (None, "y")])
def test_axes_that_make_no_sense(up, front):
    with pytest.raises(UsageError):
        choose_axes("glb", up, front)


@given(
    offset=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    scale=st.floats(1e-3, 1e3),
    axes=st.sampled_from(AXIS_PAIRS),
)
@settings(max_examples=40, deadline=None)
def test_normalize_and_back(offset, scale, axes):
    points = np.random.default_rng(0).normal(size=(30, 3)) * scale + offset
    mesh = _mesh(points.astype(np.float32), np.arange(30).reshape(-1, 3))
    working, normalization = normalize(mesh, Axes(up=axes[0], front=axes[1]))
    low, high = working.vertices.min(axis=0), working.vertices.max(axis=0)
    # float32 results of size 1: a few units in the last place
    assert np.abs(low + high).max() < 1e-6
    assert (high - low).max() == pytest.approx(2.0, abs=1e-6)
    back = normalization.invert(normalization.apply(mesh.vertices))
    size = np.abs(mesh.vertices).max() + 1
    assert np.abs(back - mesh.vertices).max() < 1e-12 * size


def test_unused_vertices_do_not_count(box_glb):
    mesh = load_asset(box_glb).mesh
    far = np.concatenate([mesh.vertices, [[1e6, 0, 0]]]).astype(np.float32)
    normals = np.concatenate([mesh.vertex_normals, [[0, 0, 1]]]).astype(np.float32)
    working, _ = normalize(replace(mesh, vertices=far, vertex_normals=normals))
    assert np.array_equal(np.abs(working.vertices[:24]), np.ones((24, 3)))


def test_a_point_cannot_be_normalised():
    with pytest.raises(InputError):
        normalize(_mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]])))


def test_seams_and_soups_do_not_crease():
    sphere = trimesh.creation.uv_sphere(count=[16, 24])
    vertices = np.asarray(sphere.vertices, np.float32)
    faces = np.asarray(sphere.faces)
    merged = smooth_normals(vertices, faces)[faces]
    soup = smooth_normals(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3))
    assert np.allclose(merged.reshape(-1, 3), soup, atol=1e-6)


def test_normals_do_not_depend_on_how_a_quad_is_cut():
    """A cube's corners look along its diagonals, however its sides are cut in two."""
    points = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    for cut in range(64):
        faces = [np.roll(quad, cut >> side & 1) for side, quad in enumerate(quads)]
        faces = np.array(faces)[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
        assert np.allclose(smooth_normals(points, faces), points / np.sqrt(3), atol=1e-6)


def test_degenerate_faces_get_unit_normals():
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]], np.float32)
    normals = smooth_normals(points, np.array([[0, 1, 2], [3, 3, 3]]))
    assert np.array_equal(normals, np.tile([0, 0, 1], (4, 1)))


def test_public_names_are_there_and_not_hidden_by_modules():
    import seqtex_geometry.charts
    import seqtex_geometry.working_copy

    for name in seqtex_geometry.__all__:
        assert not isinstance(getattr(seqtex_geometry, name), type(sys)), name
    with pytest.raises(AttributeError):
        seqtex_geometry.no_such_name  # noqa: B018


def test_mesh_files_are_read_without_torch():
    code = (
        "import sys; from seqtex_geometry import load_asset, export_textured, unwrap, normalize;"
        "assert not {'torch', 'trimesh', 'scipy', 'xatlas'} & set(sys.modules)"
    )
    path = ":".join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})


def _mesh(vertices, faces):
    from seqtex_geometry import Material, Mesh

    return Mesh(
        vertices=vertices,
        faces=faces,
        vertex_normals=np.zeros_like(vertices),
        face_uvs=None,
        face_material=np.zeros(len(faces), np.int64),
        materials=(Material(name="m"),),
        face_primitive=np.zeros(len(faces), np.int64),
        face_texture_set=np.full(len(faces), -1),
    )


def test_a_mesh_far_from_the_origin_keeps_its_shape(tmp_path, gltf_maker, box_obj):
    """Coordinates on Earth, 4e6 m away: single precision has steps of 0.25 m there."""
    offset = np.array([500_000.0, 4_000_000.0, 12.5])
    moved = []
    for line in box_obj.read_text().splitlines():
        words = line.split()
        if words and words[0] == "v":
            place = 0.137 * np.array(words[1:], np.float64) + offset
            line = "v " + " ".join(map(repr, place.tolist()))
        moved.append(line)
    far_obj = box_obj.with_name("far.obj")
    far_obj.write_text("\n".join(moved))
    paths = {far_obj: box_obj}
    for name, place in (("near", {}), ("far", {"translation": offset.tolist()})):
        maker = gltf_maker()
        maker.show(maker.box_primitive(), scale=[0.137] * 3, **place)
        maker.write_glb(tmp_path / f"{name}.glb")
    paths[tmp_path / "far.glb"] = tmp_path / "near.glb"
    for far, near in paths.items():
        asset, twin = load_asset(far), load_asset(near)
        assert any("far from the origin" in note for note in asset.notes)
        working, _ = normalize(asset.mesh, asset.axes)
        expected, _ = normalize(twin.mesh, twin.axes)
        # double precision has steps of 5e-10 m there, on a box of 0.27 m
        np.testing.assert_allclose(working.vertices, expected.vertices, atol=1e-6)
        textures = [np.zeros((8, 8, 3), np.uint8)] * asset.mesh.num_texture_sets
        for ending in (far.suffix, ".glb"):
            out = tmp_path / f"out{ending}"
            export_textured(asset, textures, out, extras={})
            written = load_asset(out)
            shown, _ = normalize(written.mesh, written.axes)
            # single precision within the box: 2^-24 of its size
            np.testing.assert_allclose(
                shown.vertices[shown.faces], expected.vertices[expected.faces], atol=1e-6
            )


@pytest.mark.parametrize("kind", ["obj", "ply"])
@pytest.mark.parametrize("up", ["y", "-x"])
def test_a_stray_vertex_blurs_nothing(tmp_path, kind, up):
    """Surveys have triangles at 5e6 m and a vertex at 0 that nothing uses, or no number at all."""
    corners = 5e6 + np.array([[0.0, 0, 0], [0.01, 0, 0.002], [0, 0.013, 0]])
    rows = [" ".join(map(repr, row)) for row in [*corners.tolist(), [0.0, 0.0, 0.0]]]
    rows.append("nan 0 0")
    head = "ply\nformat ascii 1.0\nelement vertex 5\n"
    head += "".join(f"property double {axis}\n" for axis in "xyz")
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if kind == "ply":
        text = head + "\n".join([*rows, "3 0 1 2\n"])
    else:
        text = "".join(f"v {row}\n" for row in rows) + "vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
    (tmp_path / f"a.{kind}").write_text(text)
    asset = load_asset(tmp_path / f"a.{kind}", up=up)
    # steps of double precision at 5e6 are 9e-10
    np.testing.assert_allclose(asset.mesh.vertices[:3], corners, atol=1e-9, rtol=0)
    uvs = np.array([[[0, 0], [1, 0], [0, 1]]], np.float32)
    texture = np.zeros((8, 8, 3), np.uint8)
    out = tmp_path / "b.glb"
    export_textured(asset, [texture], out, extras={}, new_uvs=uvs)
    written = load_asset(out)
    working, _ = normalize(asset.mesh, asset.axes)
    again, _ = normalize(written.mesh, written.axes)
    np.testing.assert_allclose(
        again.vertices[again.faces], working.vertices[working.faces], atol=2e-7, rtol=0
    )
