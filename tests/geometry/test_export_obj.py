"""OBJ, PLY and STL export: OBJ text stays, new glTF files hold the same corners."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from seqtex_core.errors import ContractError, UsageError
from seqtex_geometry import export_textured, load_asset, unwrap, verify_unchanged


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def corners(mesh):
    return mesh.vertices[mesh.faces]


def test_obj_text_is_unchanged(box_obj, tmp_path):
    asset = load_asset(box_obj)
    report = export_textured(asset, [picture()], tmp_path / "out/new box.obj", extras={})
    names = sorted(file.name for file in report.files)
    assert names == ["bump.png", "new box.obj", "new_box.mtl", "new_box_basecolor_0.png"]
    before = box_obj.read_bytes()
    after = report.path.read_bytes()
    assert after == before.replace(b"mtllib my box.mtl", b"mtllib new_box.mtl")
    assert (tmp_path / "out/new_box.mtl").read_bytes() == (
        b"# paint\r\nnewmtl Red Paint\r\nKd 1.0 1.0 1.0\r\nmap_Kd new_box_basecolor_0.png\r\n"
        b"Ns 10\r\nmap_Bump bump.png\r\n"
    )
    mesh = load_asset(report.path).mesh
    assert np.array_equal(mesh.materials[0].base_color_image[..., :3], picture())


def test_obj_beside_its_input(box_obj, tmp_path):
    asset = load_asset(box_obj)
    bump = (tmp_path / "bump.png").stat().st_mtime_ns
    report = export_textured(asset, [picture()], tmp_path / "again.obj", extras={})
    assert report.path.exists()
    assert (tmp_path / "bump.png").stat().st_mtime_ns == bump
    assert box_obj.read_bytes() == asset.source
    with pytest.raises(UsageError, match="part of the input"):
        export_textured(asset, [picture()], box_obj, extras={})


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"# only\n", b"\xef\xbb\xbf# both\r\n"])
@pytest.mark.parametrize("material", [b"", b"usemtl skin\n"])
def test_bare_obj_gets_library_and_material(tmp_path, head, material):
    text = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n" + material + b"f 1/1 2/2 3/3"
    (tmp_path / "a.obj").write_bytes(head + text)
    asset = load_asset(tmp_path / "a.obj")
    report = export_textured(asset, [picture()], tmp_path / "b.obj", extras={})
    written = report.path.read_bytes()
    assert written.startswith(head)
    assert b"mtllib b.mtl" in written
    mesh = load_asset(report.path).mesh
    assert np.array_equal(mesh.materials[0].base_color_image[..., :3], picture())
    left = [
        line for line in written.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if not line.startswith((b"mtllib", b"usemtl default"))
    ]  # fmt: skip
    assert b"\n".join(left) == head.removeprefix(b"\xef\xbb\xbf") + text


@pytest.mark.parametrize("has_library", [False, True])
def test_names_are_written_as_they_are_spelled(tmp_path, png, has_library):
    """Other programs compare the bytes of ``usemtl`` and ``newmtl``."""
    name = "材质…".encode("gbk")
    (tmp_path / "bump.png").write_bytes(png())
    if has_library:
        bump = "map_Bump D:\\模型\\bump.png".encode("gbk")
        (tmp_path / "m.mtl").write_bytes(b"newmtl " + name + b"\n" + bump + b"\n")
    text = b"mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    (tmp_path / "a.obj").write_bytes(text + b"usemtl " + name + b"\nf 1/1 2/2 3/3\n")
    out = tmp_path / "o/b.obj"
    export_textured(load_asset(tmp_path / "a.obj"), [picture()], out, extras={})
    library = (tmp_path / "o/b.mtl").read_bytes()
    assert b"newmtl " + name + b"\n" in library
    assert (b"map_Bump bump.png\n" in library) == has_library
    assert (tmp_path / "o/bump.png").is_file() == has_library


def test_several_materials_keep_their_own_image(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "m.mtl").write_text("newmtl x\nmap_Kd a.png\nmap_Ka a.png\nnewmtl y\nKd 1 0 0\n")
    text = "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    text += "usemtl x\nf 1/1 2/2 3/3\nusemtl y\nf 1/1 3/3 2/2\nusemtl z\nf 1 2 3\n"
    (tmp_path / "a.obj").write_text(text)
    asset = load_asset(tmp_path / "a.obj")
    report = export_textured(asset, [picture(0), picture(1)], tmp_path / "o/b.obj", extras={})
    mesh = load_asset(report.path).mesh
    assert np.array_equal(mesh.materials[0].base_color_image[..., :3], picture(0))
    assert np.array_equal(mesh.materials[1].base_color_image[..., :3], picture(1))
    assert mesh.materials[2].base_color_image is None


def test_unwrapped_obj(box_obj, tmp_path):
    asset = load_asset(box_obj)
    uvs = unwrap(asset.mesh).face_uvs
    uvs[0, 0] += np.float32(0.001)  # the two halves of the first quad now disagree
    report = export_textured(asset, [picture()], tmp_path / "o/b.obj", extras={}, new_uvs=uvs)
    mesh = load_asset(report.path).mesh
    assert np.array_equal(corners(mesh), corners(asset.mesh))
    assert np.array_equal(mesh.face_uvs, uvs)
    assert np.array_equal(
        mesh.vertex_normals[mesh.faces], asset.mesh.vertex_normals[asset.mesh.faces]
    )
    sizes = [len(line.split()) - 1 for line in report.path.read_bytes().splitlines()
             if line.startswith(b"f ")]  # fmt: skip
    assert sizes == [3, 3, 4, 4, 4, 4, 4]
    # The bump map was laid out over the old UVs.
    assert b"bump" not in (tmp_path / "o/b.mtl").read_bytes()
    assert not (tmp_path / "o/bump.png").exists()
    assert any("bump.png" in note for note in report.notes)
    assert b"Ns 10" in (tmp_path / "o/b.mtl").read_bytes()


def test_unwrapped_obj_with_lines_and_continuations(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nl 1/1 2/1\nf 1/1 2/1 \\\n3/1\nf -4 -2 -1\n"
    (tmp_path / "a.obj").write_text(text)
    asset = load_asset(tmp_path / "a.obj")
    uvs = unwrap(asset.mesh).face_uvs
    out = export_textured(asset, [picture()], tmp_path / "b.obj", extras={}, new_uvs=uvs).path
    assert "l 1 2" in out.read_text()
    assert np.array_equal(load_asset(out).mesh.face_uvs, uvs)


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("up", [None, "z", "-x"])
def test_obj_to_glb(box_obj, tmp_path, new, up):
    asset = load_asset(box_obj, up=up)
    uvs = unwrap(asset.mesh).face_uvs if new else None
    out = tmp_path / "b.glb"
    report = export_textured(asset, [picture()], out, extras={"a": 1}, new_uvs=uvs)
    assert any("bump.png" in note for note in report.notes)
    written = load_asset(out)
    turned = corners(written.mesh) @ written.axes.rotation().T
    # the same object in the working frame, whatever axes the OBJ had
    assert np.allclose(turned, corners(asset.mesh) @ asset.axes.rotation().T, atol=1e-6)
    assert np.allclose(
        written.mesh.face_uvs, asset.mesh.face_uvs if uvs is None else uvs, atol=1e-7
    )
    assert trimesh.load(out, force="mesh", process=False).volume == pytest.approx(8.0)


@pytest.mark.parametrize("kind", ["ply", "stl"])
def test_ply_and_stl_to_glb(tmp_path, kind):
    torus = trimesh.creation.torus(1.0, 0.4, major_sections=24, minor_sections=12)
    torus.visual.vertex_colors = np.random.default_rng(0).integers(0, 255, (288, 4))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(torus.export(file_type=kind))
    asset = load_asset(path)
    with pytest.raises(UsageError, match="Unwrap"):
        export_textured(asset, [picture()], tmp_path / "b.glb", extras={})
    uvs = unwrap(asset.mesh).face_uvs
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    written = load_asset(out)
    assert np.array_equal(corners(written.mesh), corners(asset.mesh))
    second = trimesh.load(out, force="mesh", process=False)
    assert np.array_equal(np.asarray(second.triangles, np.float32), corners(asset.mesh))
    assert second.visual.uv is not None
    attributes = written.document.document["meshes"][0]["primitives"][0]["attributes"]
    assert ("_COLOR_0" in attributes) == (kind == "ply")
    assert "COLOR_0" not in attributes


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"v 1 -1 -1", b"v 1 -1 -1.0001"), (b"f 1/1/1", b"f 2/1/1"), (b"s off", b"s 1")],
)
def test_changed_obj_is_noticed(box_obj, tmp_path, old, new):
    asset = load_asset(box_obj)
    out = export_textured(asset, [picture()], tmp_path / "o/b.obj", extras={}).path
    data = out.read_bytes()
    assert old in data
    out.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ContractError):
        verify_unchanged(asset, out)


def test_changed_corners_of_a_new_glb_are_noticed(box_obj, tmp_path):
    asset = load_asset(box_obj)
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    verify_unchanged(asset, out)
    data = bytearray(out.read_bytes())
    value = np.float32(-1.0).tobytes()
    position = data.index(value * 2)
    data[position : position + 4] = np.float32(-1.001).tobytes()
    out.write_bytes(bytes(data))
    with pytest.raises(ContractError):
        verify_unchanged(asset, out)


_STRIP = "".join(f"v {i} {i % 2} 0\n" for i in range(8)) + "vt 0 0\nvt 1 0\nvt 0 1\n"


def face(first):
    return "f " + " ".join(f"{first + i}/{1 + i}" for i in range(3)) + "\n"


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("up", ["y", "z"])
@pytest.mark.parametrize("new", [True, False])
def test_parts_of_an_obj_stay_parts_of_the_glb(tmp_path, objects, up, new):
    """Objects become nodes; groups do in a file without objects."""
    key, other = ("o", "g") if objects else ("g", "s")
    text = _STRIP + face(1) + f"{key} left wheel\n{other} 1\nusemtl red\n" + face(2)
    text += f"usemtl blue\n{other} 2\n" + face(3) + f"{key} body\n" + face(4)
    text += f"usemtl red\n{key} left wheel\n" + face(5)
    (tmp_path / "car.obj").write_text(text)
    asset = load_asset(tmp_path / "car.obj", up=up)
    textures = [picture(i) for i in range(1 if new else asset.mesh.num_texture_sets)]
    uvs = asset.mesh.face_uvs if new else None
    out = export_textured(asset, textures, tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    written = load_asset(out)
    document = written.document.document
    root = document["nodes"][0]
    children = [document["nodes"][index] for index in root["children"]]
    assert root["name"] == "car"
    assert ("matrix" in root) == (up == "z")
    assert [child["name"] for child in children] == ["car", "left wheel", "body"]
    counts = [len(document["meshes"][child["mesh"]]["primitives"]) for child in children]
    assert counts == [1, 2, 1]
    names = [document["materials"][item["material"]]["name"]
             for item in document["meshes"][1]["primitives"]]  # fmt: skip
    assert names == ["red", "blue"]
    shown = {corner.tobytes() for corner in corners(asset.mesh) @ asset.axes.rotation().T}
    again = {corner.tobytes() for corner in corners(written.mesh) @ written.axes.rotation().T}
    assert shown == again
    assert len(trimesh.load(out).geometry) == 4


def test_changed_parts_are_noticed(tmp_path):
    (tmp_path / "a.obj").write_text(_STRIP + "o a\n" + face(1) + "o b\n" + face(4))
    asset = load_asset(tmp_path / "a.obj")
    textures = [picture(i) for i in range(asset.mesh.num_texture_sets)]
    out = export_textured(asset, textures, tmp_path / "b.glb", extras={}).path
    data = out.read_bytes()
    assert data.count(b'"name":"b","mesh":1') == 1
    out.write_bytes(data.replace(b'"name":"b","mesh":1', b'"name":"b","mesh":0'))
    with pytest.raises(ContractError, match="parts"):
        verify_unchanged(asset, out)


@pytest.mark.parametrize(
    ("line", "alpha"), [("d 0.25", 0.25), ("d -halo 0.5", 0.5), ("d 0", 1.0), ("Tr 1", 1.0)]
)
def test_glass_of_an_obj_stays_glass_in_a_glb(tmp_path, line, alpha):
    (tmp_path / "m.mtl").write_text(f"newmtl glass\nKd 1 0 0\n{line}\nnewmtl solid\n")
    text = "mtllib m.mtl\n" + _STRIP + "usemtl glass\n" + face(1) + "usemtl solid\n" + face(2)
    (tmp_path / "a.obj").write_text(text + "usemtl glass\nf 4 5 6\n")
    asset = load_asset(tmp_path / "a.obj")
    textures = [picture(i) for i in range(asset.mesh.num_texture_sets)]
    out = export_textured(asset, textures, tmp_path / "b.glb", extras={}).path
    painted, solid, bare = load_asset(out).document.document["materials"]
    assert painted["pbrMetallicRoughness"].get("baseColorFactor", [1] * 4) == [1, 1, 1, alpha]
    assert bare["pbrMetallicRoughness"]["baseColorFactor"] == [1, 0, 0, alpha]
    for entry in (painted, bare):
        assert entry.get("alphaMode", "OPAQUE") == ("BLEND" if alpha < 1 else "OPAQUE")
    assert "alphaMode" not in solid
