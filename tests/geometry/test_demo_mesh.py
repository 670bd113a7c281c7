"""The mesh that the repository ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from seqtex_geometry import load_asset, normalize, uv_report

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


@pytest.fixture(scope="module")
def asset():
    return load_asset(DEMO / "mesh.glb")


def test_demo_mesh_is_small_textured_by_one_square_and_closed(asset):
    assert asset.path.stat().st_size < 400_000
    mesh = asset.mesh
    assert 3000 < len(mesh.faces) < 10_000
    assert mesh.num_texture_sets == 1
    assert all(material.base_color_image is None for material in mesh.materials)
    report = uv_report(mesh)
    assert (report.without_uvs, report.out_of_range, report.spanning) == (0, 0.0, 0.0)
    for number, ref in enumerate(asset.primitives):
        faces = mesh.faces[mesh.face_primitive == number]
        part = trimesh.Trimesh(mesh.vertices, faces, process=False)
        part.merge_vertices(merge_tex=True, merge_norm=True)
        assert part.is_watertight, ref.name
        assert part.volume > 0, ref.name


def test_demo_mesh_faces_the_front(asset):
    working, _ = normalize(asset.mesh, asset.axes)
    names = [ref.name for ref in asset.primitives]
    beak = working.faces[working.face_primitive == names.index("beak")]
    tail = working.faces[working.face_primitive == names.index("tail")]
    assert working.vertices[beak][..., 1].mean() < -0.3
    assert working.vertices[tail][..., 1].mean() > 0.2


def test_reference_picture_has_alpha_and_colour():
    with Image.open(DEMO / "reference.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (1024, 1024, 4)
    covered = pixels[..., 3] == 255
    assert 0.15 < covered.mean() < 0.6
    assert pixels[covered][:, :3].std(axis=0).min() > 20
