"""OBJ and MTL as programs really write them."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from seqtex_core.errors import InputError
from seqtex_geometry.asset import load_asset
from seqtex_geometry.load.mtl import map_file_name
from seqtex_geometry.load.polygons import cut_ears

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def write(folder, text, name="a.obj"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_box_with_everything(box_obj, box):
    asset = load_asset(box_obj)
    mesh = asset.mesh
    assert np.array_equal(mesh.vertices[mesh.faces], box.vertices[box.faces])
    assert mesh.materials[0].name == "Red Paint"
    assert mesh.materials[0].base_color_image.shape == (8, 8, 4)
    assert mesh.num_texture_sets == 1
    expected = np.stack([box.uvs[..., 0], 1 - box.uvs[..., 1]], -1)[box.faces]
    assert np.allclose(mesh.face_uvs, expected, atol=1e-6)  # written with six digits
    assert np.allclose(mesh.vertex_normals[mesh.faces], box.normals[box.faces])
    assert asset.source == box_obj.read_bytes()


@pytest.mark.parametrize(
    "faces",
    [
        "f 1 2 3 4\n",
        "f 1/ 2/ 3/ 4/\n",
        "f 1// 2// 3// 4//\n",
        "f -4 -3 -2 -1\n",
        "f 1 2 \\\n 3 4\n",
        "f 1 2 \\\r\n 3 \\\r\n 4\r\n",
        "  f\t1  2 3\t4   # comment\n",
        "f 1 2 3\nf 1 3 4\n",
        "g\nusemtl none\ns 1\nf 1 2 3 4",
    ],
)
def test_ways_to_write_one_square(tmp_path, faces):
    mesh = load_asset(write(tmp_path, b"\xef\xbb\xbf" + (SQUARE + faces).encode())).mesh
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.face_uvs is None


def test_negative_indices_count_from_their_line(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 0 0 1\nf -4 -1 -3\n"
    assert load_asset(write(tmp_path, text)).mesh.faces.tolist() == [[0, 1, 2], [0, 3, 1]]


def test_concave_polygon_stays_inside(tmp_path):
    # an arrow head: a fan around corner 0 would cover the notch at (1, 0.5)
    text = "v 0 0 0\nv 1 0.5 0\nv 2 0 0\nv 1 3 0\nf 1 2 3 4\n"
    mesh = load_asset(write(tmp_path, text)).mesh
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    areas = np.cross(b - a, c - a)[:, 2] / 2
    assert (areas > 0).all()
    assert areas.sum() == pytest.approx(2.5)


@pytest.mark.parametrize("seed", range(8))
def test_ears_cover_a_star_polygon_once(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(5, 12))
    angles = 2 * np.pi * np.arange(count) / count
    radius = rng.uniform(0.3, 2.0, count)
    flat = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2]
    triangles = flat[np.array(cut_ears(flat @ turn.T))]
    edges = triangles[:, 1:] - triangles[:, :1]
    areas = (edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]) / 2
    area = (flat[:, 0] * np.roll(flat[:, 1], -1) - flat[:, 1] * np.roll(flat[:, 0], -1)).sum() / 2
    assert len(triangles) == count - 2
    assert areas.min() > -1e-12
    assert areas.sum() == pytest.approx(area)


def test_mixed_corners_and_groups(tmp_path):
    text = (
        SQUARE + "vt 0 0\nvt 1 0\nvt 1 1\nvn 0 0 1\n"
        "o first\nf 1/1/1 2/2/1 3/3/1\no second part\nusemtl b\nf 1 3 4\n"
    )
    asset = load_asset(write(tmp_path, text))
    assert [ref.name for ref in asset.primitives] == ["first", "second part"]
    assert asset.mesh.face_texture_set.tolist() == [0, -1]
    assert np.isnan(asset.mesh.face_uvs[1]).all()
    assert [material.name for material in asset.mesh.materials] == ["default", "b"]
    assert np.allclose(asset.mesh.vertex_normals, [0, 0, 1])


def test_several_materials_and_libraries(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "one.mtl").write_text("newmtl x\nmap_Kd a.png\nnewmtl unused\nmap_Kd gone.png\n")
    (tmp_path / "two.mtl").write_text("newmtl y\nKd 0.5 0.25 0\nnewmtl z\nmap_Kd ./a.png\n")
    text = "mtllib one.mtl two.mtl\n" + SQUARE + "vt 0 0\nvt 1 0\nvt 1 1\n"
    for name in "xyz":
        text += f"usemtl {name}\nf 1/1 2/2 3/3\n"
    mesh = load_asset(write(tmp_path, text)).mesh
    assert mesh.face_texture_set.tolist() == [0, 1, 0]
    assert mesh.materials[1].base_color_factor == (0.5, 0.25, 0.0, 1.0)


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "latin-1"])
def test_names_in_any_encoding(tmp_path, png, encoding):
    """A comment in another encoding, and names whose bytes look like spaces or line ends."""
    name = {"utf-8": "peau é", "gbk": "材质…零 牋", "latin-1": "peau é\x85 à\xa0"}[encoding]
    (tmp_path / "a.png").write_bytes(png())
    library = b"# caf\xe9\n" + f"newmtl {name}\nKd 1 1 1\nmap_Kd a.png\n".encode(encoding)
    (tmp_path / "a.mtl").write_bytes(library)
    text = "mtllib a.mtl\n" + SQUARE + f"vt 0 0\nvt 1 0\nvt 1 1\nusemtl {name}\nf 1/1 2/2 3/3\n"
    asset = load_asset(write(tmp_path, text.encode(encoding)))
    assert asset.mesh.materials[0].base_color_image is not None
    assert not asset.notes


def test_missing_library_is_told(tmp_path):
    asset = load_asset(write(tmp_path, "mtllib gone.mtl\n" + SQUARE + "usemtl a\nf 1 2 3\n"))
    assert any("gone.mtl" in note for note in asset.notes)


def test_vertex_colours_and_axes(tmp_path):
    text = "".join(f"v {x} {y} 0 0.5 1 0\n" for x, y in ((0, 0), (1, 0), (0, 1))) + "f 1 2 3\n"
    asset = load_asset(write(tmp_path, text), up="Z")
    # sRGB 0.5 is 0.2140 linear (IEC 61966-2-1)
    assert np.allclose(asset.mesh.vertex_colors, [0.2140, 1, 0, 1], atol=1e-4)
    assert str(asset.axes) == "z up, -y front (--up)"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("a.png", "a.png"),
        ("my file.png", "my file.png"),
        ("-s 1 1 1 my file.png", "my file.png"),
        ("-o 0.5 -bm 0.2 -clamp on tex\\a b.png", "tex\\a b.png"),
        ("-mm 0 1 a.png", "a.png"),
        ("", ""),
    ],
)
def test_map_options(value, name):
    assert map_file_name(value) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "index 9"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "index 0"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -7\n", "-7"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n", "line 4"),
        ("v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n", "3 numbers"),
        ("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n", "NaN"),
        ("v 0 0 0\nv 1 1.#QNAN 0\nv 0 1 0\nf 1 2 3\n", "numbers"),
        ("v 0 0 0\nv 1 1e60 0\nv 0 1 0\nf 1 2 3\n", "infinity"),
        ("v 0 0 0\nl 1 1\n", "no faces"),
        ("", "no faces"),
    ],
)
def test_bad_text(tmp_path, text, said):
    with pytest.raises(InputError) as caught:
        load_asset(write(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:trimesh")
def test_second_reader_agrees(box_obj):
    mine = load_asset(box_obj).mesh
    other = trimesh.load(box_obj, process=False, maintain_order=True, force="mesh")
    again = trimesh.Trimesh(mine.vertices, mine.faces, process=False)
    # quads may be cut along the other diagonal; what they enclose is the same
    assert again.area == pytest.approx(other.area)
    assert again.volume == pytest.approx(other.volume)
    assert again.volume == pytest.approx(8.0)
