"""PLY and STL: every layout, and trimesh as a second reader."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import trimesh

from seqtex_core.errors import InputError
from seqtex_geometry.asset import load_asset

POINTS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0.5, 2, 0)]


def ply(folder, order, polygons, *, extra=(), rows=None, head=(), face_extra=None):
    """A PLY file; ``order`` is "ascii", "<" or ">"."""
    kinds = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}
    lines = ["ply", f"format {kinds[order]} 1.0", *head, f"element vertex {len(POINTS)}"]
    lines += ["property float x", "property float y", "property float z", *extra]
    lines += [f"element face {len(polygons)}", "property list uchar int vertex_indices"]
    if face_extra is not None:
        lines.append("property list uchar float texcoord")
    data = ("\n".join([*lines, "end_header"]) + "\n").encode()
    rows = [()] * len(POINTS) if rows is None else rows
    if order == "ascii":
        for point, more in zip(POINTS, rows, strict=True):
            data += (" ".join(map(str, (*point, *more))) + "\n").encode()
        for number, polygon in enumerate(polygons):
            words = [len(polygon), *polygon]
            if face_extra is not None:
                words += [len(face_extra[number]), *face_extra[number]]
            data += (" ".join(map(str, words)) + "\n").encode()
    else:
        for point, more in zip(POINTS, rows, strict=True):
            data += struct.pack(order + "3f", *point)
            for value, kind in zip(more, extra, strict=True):
                data += struct.pack(order + {"float": "f", "uchar": "B"}[kind.split()[1]], value)
        for number, polygon in enumerate(polygons):
            data += struct.pack(f"{order}B{len(polygon)}i", len(polygon), *polygon)
            if face_extra is not None:
                values = face_extra[number]
                data += struct.pack(f"{order}B{len(values)}f", len(values), *values)
    path = folder / "a.ply"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
@pytest.mark.parametrize(
    ("polygons", "faces"),
    [
        ([(0, 1, 2), (0, 2, 3)], [[0, 1, 2], [0, 2, 3]]),
        ([(0, 1, 2, 3)], [[0, 1, 2], [0, 2, 3]]),
        ([(3, 2, 4), (0, 1, 2, 3)], [[3, 2, 4], [0, 1, 2], [0, 2, 3]]),
        ([(0, 1), (0, 1, 2, 4, 3)], [[0, 1, 2], [0, 2, 4], [0, 4, 3]]),
    ],
)
def test_polygons(tmp_path, order, polygons, faces):
    mesh = load_asset(ply(tmp_path, order, polygons)).mesh
    assert mesh.faces.tolist() == faces
    assert np.array_equal(mesh.vertices, np.array(POINTS, np.float32))


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_vertex_columns(tmp_path, order):
    extra = [f"property float {n}" for n in ("nx", "ny", "nz", "s", "t")]
    extra += [f"property uchar {n}" for n in ("red", "green", "blue", "alpha")]
    rows = [(0, 0, 2, i / 10, i / 5, 188, 0, 255, 51) for i in range(5)]
    mesh = load_asset(ply(tmp_path, order, [(0, 1, 2)], extra=extra, rows=rows)).mesh
    assert np.allclose(mesh.vertex_normals, [0, 0, 1])
    assert np.allclose(mesh.face_uvs[0], [(0, 0), (0.1, 0.2), (0.2, 0.4)])
    # sRGB 188 / 255 is 0.5029 linear; alpha is not encoded
    assert np.allclose(mesh.vertex_colors, [0.5029, 0, 1, 0.2], atol=1e-4)


@pytest.mark.parametrize("order", ["ascii", "<"])
def test_uvs_per_corner_and_texture(tmp_path, order, png):
    (tmp_path / "skin.png").write_bytes(png())
    corner_uvs = [(0, 0, 1, 0, 1, 1, 0, 1), ()]
    path = ply(
        tmp_path,
        order,
        [(0, 1, 2, 3), (3, 2, 4)],
        head=["comment TextureFile skin.png"],
        face_extra=corner_uvs,
    )
    mesh = load_asset(path).mesh
    assert mesh.face_uvs[1].tolist() == [[0, 0], [1, 1], [0, 1]]
    assert mesh.face_texture_set.tolist() == [0, 0, -1]
    assert mesh.materials[0].base_color_image is not None
    (tmp_path / "skin.png").unlink()
    with pytest.raises(InputError, match=r"skin\.png"):
        load_asset(path)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_ply_second_reader(tmp_path, encoding):
    sphere = trimesh.creation.icosphere(subdivisions=2)
    path = tmp_path / "a.ply"
    path.write_bytes(sphere.export(file_type="ply", encoding=encoding))
    mesh = load_asset(path).mesh
    assert np.array_equal(mesh.faces, sphere.faces)
    assert np.allclose(mesh.vertices, sphere.vertices, atol=1e-6)  # ASCII has 8 digits


@pytest.mark.parametrize("kind", ["stl", "stl_ascii"])
def test_stl(tmp_path, kind):
    sphere = trimesh.creation.icosphere(subdivisions=2)
    path = tmp_path / "a.stl"
    data = sphere.export(file_type=kind)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    mesh = load_asset(path).mesh
    assert len(mesh.vertices) == len(sphere.vertices)  # equal corners became one vertex
    assert np.allclose(mesh.vertices[mesh.faces], sphere.triangles, atol=1e-6)
    # 320 faces: the normal of a vertex is within a degree of the sphere's
    radial = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (mesh.vertex_normals * radial).sum(axis=1).min() > np.cos(np.radians(1))


@pytest.mark.parametrize("name", ["", "my vertex model", "Vertex 1 2 3", "a facet of vertex"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " "])
def test_stl_of_any_name(tmp_path, name, end):
    """Two solids whose names look like statements; once all on one line."""
    lines = [f"solid {name}", "facet normal 0 0 1", "outer loop"]
    lines += ["vertex 0 0 0", "vertex 1 0 0", "vertex 0 1 0", "endloop", "endfacet"]
    lines += [f"endsolid {name}"]
    path = tmp_path / "a.stl"
    path.write_text(end.join([*lines, *lines, ""]), newline="")
    mesh = load_asset(path).mesh
    assert mesh.vertices[mesh.faces].tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]] * 2


def test_binary_stl_that_says_solid(tmp_path):
    sphere = trimesh.creation.icosphere(subdivisions=1)
    data = bytearray(sphere.export(file_type="stl"))
    data[:80] = b"solid but binary".ljust(80, b" ")
    path = tmp_path / "a.stl"
    path.write_bytes(bytes(data))
    assert len(load_asset(path).mesh.faces) == 80


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.ply", b"not a ply", "PLY header"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex x\nend_header\n", "element vertex x"),
        ("a.ply", b"ply\nelement vertex 0\nend_header\n", "format"),
        ("a.stl", b"", "got 0 bytes"),
        ("a.stl", bytes(84), "no faces"),
        ("a.stl", b"\x00" * 80 + struct.pack("<I", 5) + b"\x00" * 100, "334 bytes"),
        ("a.stl", b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0\n", "vertex x y z"),
    ],
)
def test_bad_files(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_asset(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_cut_off_ply(tmp_path, order):
    path = ply(tmp_path, order, [(0, 1, 2), (0, 2, 3, 4)])
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(InputError, match="rows of face"):
        load_asset(path)


def test_ply_index_out_of_range(tmp_path):
    with pytest.raises(InputError, match="index 5"):
        load_asset(ply(tmp_path, "<", [(0, 1, 5)]))


def test_points_only(tmp_path):
    with pytest.raises(InputError, match="no faces"):
        load_asset(ply(tmp_path, "<", []))
