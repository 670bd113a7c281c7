"""Charts cut by direction: no folds, little stretch, few pieces, whatever the mesh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from seqtex_core.errors import UsageError
from seqtex_geometry import load_asset, unwrap
from seqtex_geometry.charts import XATLAS_FACES, chart_method
from seqtex_geometry.direction_charts import direction_charts
from seqtex_geometry.maps import count_uv_overlaps
from seqtex_geometry.mesh import Mesh
from seqtex_geometry.surface import SurfaceTensors


def mesh_of(shape: trimesh.Trimesh, folder) -> Mesh:
    path = folder / "a.ply"
    path.write_bytes(shape.export(file_type="ply"))
    return load_asset(path).mesh


def areas(corners: np.ndarray) -> np.ndarray:
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    if corners.shape[-1] == 2:
        return 0.5 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    return 0.5 * np.linalg.norm(np.cross(a, b), axis=1)


SHAPES = {
    "ball": trimesh.creation.icosphere(subdivisions=4),
    "box": trimesh.creation.box().subdivide().subdivide(),
    "torus": trimesh.creation.torus(1.0, 0.4, major_sections=48, minor_sections=24),
    "capsule": trimesh.creation.capsule(height=2.0, count=(24, 24)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_charts_are_flat_and_apart(name: str, tmp_path) -> None:
    mesh = mesh_of(SHAPES[name], tmp_path)
    plane, chart = direction_charts(mesh.vertices, mesh.faces)
    assert (areas(plane) > 0).all()  # none is turned over
    assert (areas(mesh.vertices[mesh.faces]) / areas(plane) <= 4.001).all()
    assert chart.max() + 1 <= 12  # a torus has two per direction
    made = unwrap(mesh, method="directions", resolution=256)
    assert made.faces is mesh.faces
    assert made.face_uvs.min() >= 0
    assert made.face_uvs.max() <= 1
    size = {"height": 256, "width": 256}
    assert count_uv_overlaps(SurfaceTensors.from_mesh(made), **size) == 0
    assert np.abs(areas(made.face_uvs)).sum() > 0.4  # of the square; xatlas turns some over


def test_noise_does_not_shatter_the_surface(tmp_path) -> None:
    """As in a scan: single faces point anywhere."""
    ball = trimesh.creation.icosphere(subdivisions=5)
    shake = np.random.default_rng(0).normal(0, 0.004, ball.vertices.shape)
    rough = trimesh.Trimesh(ball.vertices + shake, ball.faces, process=False)
    _, chart = direction_charts(np.asarray(rough.vertices), np.asarray(rough.faces))
    plain = direction_charts(np.asarray(ball.vertices), np.asarray(ball.faces))[1]
    assert plain.max() + 1 == 6
    large = np.bincount(chart) >= 64
    assert np.bincount(chart)[large].sum() > 0.95 * len(chart)


def test_no_face_is_squeezed_to_less_than_a_quarter(tmp_path) -> None:
    """Rugged ground, where most neighbours of a steep face lie flat."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(40.0), np.arange(40.0)))
    height = np.random.default_rng(0).choice([0.0, 6.0], 1600, p=[0.9, 0.1])
    corner = np.arange(1560).reshape(39, 40)[:, :-1].reshape(-1, 1)
    faces = np.concatenate([corner + np.array([0, 1, 41]), corner + np.array([0, 41, 40])])
    mesh = mesh_of(trimesh.Trimesh(np.stack([x, y, height], 1), faces, process=False), tmp_path)
    plane, _ = direction_charts(mesh.vertices, mesh.faces)
    ratio = areas(plane) / areas(mesh.vertices[mesh.faces].astype(np.float64))
    assert ratio.min() >= 0.25 - 1e-6


def test_layers_over_each_other_are_parted(tmp_path) -> None:
    """A spiral sheet faces along x several times, one turn behind the other."""
    turns = np.linspace(0, 6 * np.pi, 600)
    radius = 1 + 0.15 * turns
    line = np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1)
    rows = [np.column_stack([line, np.full(len(line), z)]) for z in np.linspace(0, 0.2, 5)]
    vertices = np.concatenate(rows)
    a = (np.arange(4)[:, None] * 600 + np.arange(599)).ravel()
    faces = np.concatenate(
        [np.stack([a, a + 1, a + 600], 1), np.stack([a + 1, a + 601, a + 600], 1)]
    )
    mesh = mesh_of(trimesh.Trimesh(vertices, faces, process=False), tmp_path)
    made = unwrap(mesh, method="directions", resolution=256)
    size = {"height": 256, "width": 256}
    assert count_uv_overlaps(SurfaceTensors.from_mesh(made), **size) == 0


def test_corners_at_one_place_hang_together(tmp_path) -> None:
    """A triangle soup is cut as the welded surface is."""
    ball = SHAPES["ball"]
    soup = ball.vertices[ball.faces].reshape(-1, 3)
    _, chart = direction_charts(soup, np.arange(len(soup)).reshape(-1, 3))
    assert chart.max() + 1 == 6


def test_faces_without_area_do_not_matter(tmp_path) -> None:
    ball = SHAPES["ball"]
    faces = np.concatenate([ball.faces, [[0, 0, 1], [3, 3, 3]]])
    made = unwrap(
        mesh_of(trimesh.Trimesh(ball.vertices, faces, process=False), tmp_path),
        method="directions",
        resolution=256,
    )
    assert np.isfinite(made.face_uvs).all()


def test_which_method_a_mesh_gets(tmp_path) -> None:
    small = mesh_of(SHAPES["ball"], tmp_path)
    assert chart_method(small) == "xatlas"
    large = mesh_of(trimesh.creation.icosphere(subdivisions=6), tmp_path)
    assert len(large.faces) > XATLAS_FACES
    assert chart_method(large) == "directions"
    with pytest.raises(UsageError, match="charts"):
        unwrap(small, method="magic")  # type: ignore[arg-type]
    assert torch.isfinite(torch.tensor(unwrap(large, method="directions").face_uvs)).all()
