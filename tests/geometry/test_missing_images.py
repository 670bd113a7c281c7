"""Images that a mesh names and that are not there: refused, or told where they are not needed."""

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
    asset = load_asset(path, missing_images="tell")
    assert any("skin.png is not there" in note for note in asset.notes)
    out = export_textured(asset, [picture()], tmp_path / "o" / f"b{ending}", extras={}).path
    written = load_asset(out, missing_images="tell").mesh
    shown = written.materials[written.face_material[0]].base_color_image
    assert np.array_equal(shown[..., :3], picture())


def test_materials_that_name_one_file_share_a_texture(tmp_path):
    asset = load_asset(obj(tmp_path, ["a.png", "b.png", "a.png"]), missing_images="tell")
    assert asset.mesh.face_texture_set.tolist() == [0, 0, 1, 1, 0, 0]
    assert asset.mesh.materials[0].base_color_factor == (1.0, 0.0, 0.0, 1.0)


def test_tiles_of_images_are_told(tmp_path):
    path = obj(tmp_path, ["coat.<UDIM>.png"])
    with pytest.raises(InputError, match="UDIM"):
        load_asset(path)
    assert load_asset(path, missing_images="tell").mesh.materials[0].shows_tiles
