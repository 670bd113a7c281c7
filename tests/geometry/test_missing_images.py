"""Images that are not there or cannot be read: refused, or told where they are not needed."""

from __future__ import annotations

import numpy as np
import pytest
from export_samples import picture

from seqtex_core.errors import InputError
from seqtex_geometry import export_textured, load_asset

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def obj(folder, names):
    library = "".join(
        f"newmtl m{i}\nKd 1 0 0\nmap_Kd C:\\art\\{name}\n" for i, name in enumerate(names)
    )
    (folder / "m.mtl").write_text(library)
    faces = "".join(f"usemtl m{i}\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n" for i in range(len(names)))
    path = folder / "a.obj"
    path.write_text("mtllib m.mtl\n" + SQUARE + faces)
    return path


def gltf(maker, folder, uri):
    material = maker.textured_material(maker.entry("images", {"uri": uri}))
    maker.show(maker.box_primitive(material=material), maker.box_primitive(uvs=False))
    maker.document["meshes"][0]["primitives"][1]["material"] = material
    return maker.write_glb(folder / "a.glb")


def ply(folder, name):
    header = f"ply\nformat ascii 1.0\ncomment TextureFile {name}\nelement vertex 3\n"
    header += "".join(f"property float {axis}\n" for axis in "xyzuv")
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    path = folder / "a.ply"
    path.write_text(header + "0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n")
    return path


@pytest.mark.parametrize("kind", ["obj", "glb", "web", "ply"])
@pytest.mark.parametrize("ending", [".glb", ".gltf", ".obj"])
def test_a_new_texture_takes_the_place_of_one_that_is_not_there(gltf_maker, tmp_path, kind, ending):
    if ending == ".obj" and kind != "obj":
        return
    name = "http://host/skin.png" if kind == "web" else "skin.png"
    make = {"obj": lambda: obj(tmp_path, [name]), "ply": lambda: ply(tmp_path, name)}
    path = make.get(kind, lambda: gltf(gltf_maker(), tmp_path, name))()
    with pytest.raises(InputError, match=r"skin\.png"):
        load_asset(path)
    asset = load_asset(path, bad_images="tell")
    assert any("skin.png" in note and "no such file" in note for note in asset.notes)
    out = export_textured(asset, [picture()], tmp_path / "o" / f"b{ending}", extras={}).path
    written = load_asset(out, bad_images="tell").mesh
    shown = written.materials[written.face_material[0]].base_color_image
    assert np.array_equal(shown[..., :3], picture())


def test_materials_that_name_one_file_share_a_texture(tmp_path):
    asset = load_asset(obj(tmp_path, ["a.png", "b.png", "a.png"]), bad_images="tell")
    assert asset.mesh.face_texture_set.tolist() == [0, 0, 1, 1, 0, 0]
    assert asset.mesh.materials[0].base_color_factor == (1.0, 0.0, 0.0, 1.0)


def test_tiles_of_images_are_told(tmp_path):
    path = obj(tmp_path, ["coat.<UDIM>.png"])
    with pytest.raises(InputError, match="UDIM"):
        load_asset(path)
    assert load_asset(path, bad_images="tell").mesh.materials[0].shows_tiles


@pytest.mark.parametrize("kind", ["obj", "ply", "glb", "ktx"])
@pytest.mark.parametrize("new", [False, True])
def test_images_that_cannot_be_read_need_not_be(gltf_maker, tmp_path, kind, new):
    (tmp_path / "skin.png").write_bytes(b"not a picture")
    if kind == "ktx":
        maker = gltf_maker()
        shown = {"extensions": {"KHR_texture_basisu": {"source": maker.image()}}}
        info = {"index": maker.entry("textures", shown)}
        material = {"pbrMetallicRoughness": {"baseColorTexture": info}}
        maker.show(maker.box_primitive(material=maker.entry("materials", material)))
        path = maker.write_glb(tmp_path / "a.glb")
    elif kind == "glb":
        path = gltf(gltf_maker(), tmp_path, "skin.png")
    else:
        path = ply(tmp_path, "skin.png") if kind == "ply" else obj(tmp_path, ["skin.png"])
    with pytest.raises(InputError):
        load_asset(path)
    asset = load_asset(path, bad_images="tell")
    assert any("taken as plain" in note for note in asset.notes)
    count = len(asset.mesh.faces)
    uvs = np.random.default_rng(0).random((count, 3, 2), dtype=np.float32) if new else None
    out = tmp_path / "o" / "b.glb"
    export_textured(asset, [picture()], out, extras={}, new_uvs=uvs)
    written = load_asset(out, bad_images="tell").mesh
    image = written.materials[written.face_material[0]].base_color_image
    assert np.array_equal(image[..., :3], picture())
