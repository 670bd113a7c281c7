"""Which materials share a texture: those whose layouts leave each other's place free."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_geometry.asset import load_asset
from seqtex_geometry.interpolate import triangle_areas
from seqtex_geometry.shared_square import layouts_that_fit
from seqtex_geometry.texture_sets import assign_texture_sets

GRID = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def square(u, v, width, height=None):
    """Two faces over a rectangle."""
    corners = GRID * np.float32([width, height or width]) + np.float32([u, v])
    return corners[[[0, 1, 2], [0, 2, 3]]]


def fits(*layouts):
    return layouts_that_fit(layouts, [np.ones(len(uvs), np.float32) for uvs in layouts])


def test_neighbours_share_and_overlaps_do_not():
    left, right = square(0, 0, 0.5, 1), square(0.5, 0, 0.5, 1)
    assert fits(left, right) == [0, 0]
    assert fits(left, square(0.49, 0, 0.51, 1)) == [0, 1]
    assert fits(square(0, 0, 1), square(0, 0, 1), square(0, 0, 1)) == [0, 1, 2]
    assert fits(square(0, 0, 1), left, right, square(0.2, 0.2, 0.1)) == [0, 1, 1, 3]


def test_layouts_outside_of_the_square_repeat():
    left = square(0, 0, 0.5, 1)
    assert fits(left, square(3.0, -2.0, 0.5, 1)) == [0, 1]
    assert fits(left, square(3.5, -2.0, 0.5, 1)) == [0, 0]
    assert fits(left, square(0.5, 0, 40.0)) == [0, 1]  # repeats too often to be placed
    assert fits(left[:, ::-1], square(0.75, 0, 0.5, 1)) == [0, 1]  # wound the other way


def test_faces_that_are_points_need_a_free_spot():
    left = square(0, 0, 0.5, 1)
    on_it, beside = square(0.25, 0.25, 0.0, 1e-9), square(0.75, 0.25, 0.0, 1e-9)
    assert fits(left, on_it) == [0, 1]
    assert fits(left, beside) == [0, 0]
    assert fits(on_it, left) == [0, 1]
    assert fits(beside, beside.copy()) == [0, 1]


def test_borders_of_dense_meshes_do_not_count():
    """Faces far finer than the samples, cut into two materials along a slanted line."""
    n = 700
    at = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)
    at = at[(at[:, 0] > 300) & (at[:, 0] < 420) & (at[:, 1] < 120)]
    corners = ((at[:, None] + GRID) / n).astype(np.float32)
    faces = corners[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 2)
    first = faces[:, 0, 0] + 0.3 * faces[:, 0, 1] < 0.52
    assert fits(faces[first], faces[~first]) == [0, 0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_a_cut_atlas_is_one_square(seed, parts):
    """However the triangles of one layout without overlaps are given to materials."""
    generator = np.random.default_rng(seed)
    knots = np.sort(generator.random((2, 9)).astype(np.float32), axis=1)
    cells = [
        np.stack([knots[0][[i, i + 1, i + 1, i]], knots[1][[j, j, j + 1, j + 1]]], axis=1)
        for i in range(8)
        for j in range(8)
    ]
    faces = np.concatenate([cell[[[0, 1, 2], [0, 2, 3]]] for cell in cells])
    owner = generator.integers(0, parts, len(faces))
    layouts = [faces[owner == part] for part in range(parts) if (owner == part).any()]
    areas = [triangle_areas(torch.from_numpy(uvs)).numpy() for uvs in layouts]
    assert set(layouts_that_fit(layouts, areas)) == {0}


def test_images_keep_a_square_of_their_own():
    uvs = np.concatenate([square(0.25 * i, 0, 0.25) for i in range(4)])
    sets = assign_texture_sets(
        np.repeat(np.arange(4), 2),
        [None, "image", None, None],
        uvs,
        face_areas=np.ones(8, np.float32),
        mergeable=[True, True, True, False],
    )
    assert sets.tolist() == [0, 0, 1, 1, 0, 0, 2, 2]


@pytest.mark.parametrize("alpha", [255, 128])
def test_alpha_of_a_plain_image_is_not_shared(gltf_maker, png, tmp_path, box, alpha):
    """The new texture takes the alpha of the image that it replaces, for all that show it."""
    maker = gltf_maker()
    see_through = maker.textured_material(maker.image(png((9, 9, 9, alpha), size=4)))
    plain = maker.entry("materials", {"alphaMode": "BLEND"})
    parts = [maker.box_primitive(material=material) for material in (see_through, plain)]
    half = maker.accessor(box.uvs * [0.5, 1.0])
    other = maker.accessor(box.uvs * [0.5, 1.0] + [0.5, 0.0])
    for part, uvs in zip(parts, (half, other), strict=True):
        part["attributes"]["TEXCOORD_0"] = uvs
    maker.show(*parts)
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    assert mesh.num_texture_sets == (1 if alpha == 255 else 2)
