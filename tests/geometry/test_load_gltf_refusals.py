"""glTF files that cannot be read: refused quickly, by name, whatever is wrong with them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from seqtex_core.errors import InputError
from seqtex_geometry.asset import load_asset


def _broken(maker, what):
    """A GLB with one thing wrong, and a word that the message must contain."""
    primitive = maker.box_primitive()
    maker.show(primitive)
    accessors = maker.document["accessors"]
    if what == "truncated":
        return maker.glb()[:-7]
    if what == "json":
        return maker.glb().replace(b'"asset"', b'"asset]', 1)
    if what == "buffer":
        data = maker.glb()
        return data[: 12 + 8 + int.from_bytes(data[12:16], "little")].replace(
            data[8:12], (20 + int.from_bytes(data[12:16], "little")).to_bytes(4, "little"), 1
        )
    if what == "index":
        primitive["indices"] = maker.accessor(np.array([0, 1, 99]), "u2")
        maker.document["meshes"][0]["primitives"] = [primitive]
    if what == "accessor":
        accessors[0]["count"] = 10**6
    if what == "no accessor":
        maker.document["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = 77
    if what == "nan":
        bad = maker.accessor(np.full((24, 3), np.nan))
        maker.document["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = bad
    if what == "no faces":
        maker.document["meshes"][0]["primitives"][0]["mode"] = 0
    if what == "draco":
        maker.document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    if what == "extension":
        maker.document["extensionsRequired"] = ["ACME_cube"]
    if what == "loop":
        maker.document["nodes"][0]["children"] = [0]
    if what == "version":
        maker.document["asset"]["version"] = "1.0"
    if what == "type":
        accessors[0]["type"] = "VEC9"
    if what == "shape":
        maker.document["nodes"] = {"not": "a list"}
    if what == "image":
        material = maker.textured_material(maker.image(b"not a picture", name="coat"))
        maker.document["meshes"][0]["primitives"][0]["material"] = material
    if what == "cut image":
        picture = maker.image(name="coat")
        maker.document["bufferViews"][-1]["byteLength"] //= 2
        material = maker.textured_material(picture)
        maker.document["meshes"][0]["primitives"][0]["material"] = material
    if what == "image file":
        image = maker.entry("images", {"uri": "gone.png"})
        material = maker.textured_material(image)
        maker.document["meshes"][0]["primitives"][0]["material"] = material
    if what == "ktx":
        texture = {"extensions": {"KHR_texture_basisu": {"source": maker.image()}}}
        info = {"index": maker.entry("textures", texture)}
        entry = {"pbrMetallicRoughness": {"baseColorTexture": info}}
        material = maker.entry("materials", entry)
        maker.document["meshes"][0]["primitives"][0]["material"] = material
    return maker.glb()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("truncated", "header declares"),
        ("json", "glTF JSON"),
        ("buffer", "buffers[0]"),
        ("index", "below 24"),
        ("accessor", "bufferViews[0]"),
        ("no accessor", "accessors[77]"),
        ("nan", "NaN"),
        ("no faces", "no faces"),
        ("draco", "Draco"),
        ("extension", "ACME_cube"),
        ("loop", "reached twice"),
        ("version", "version 1.0"),
        ("type", "VEC9"),
        ("shape", "valid glTF"),
        ("image", "coat"),
        ("cut image", "coat"),
        ("image file", "gone.png"),
        ("ktx", "PNG"),
    ],
)
def test_bad_files_are_refused_quickly(gltf_maker, tmp_path, what, said):
    path = tmp_path / "bad.glb"
    path.write_bytes(_broken(gltf_maker(), what))
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_asset(path)
    assert said in str(caught.value)
    assert time.perf_counter() - start < 1.0  # a refusal is instant, not a computation


@pytest.mark.parametrize("name", ["missing.glb", "mesh.fbx", "folder.glb"])
def test_unusable_paths(tmp_path, name):
    if name == "mesh.fbx":
        (tmp_path / name).write_bytes(b"x")
    if name == "folder.glb":
        (tmp_path / name).mkdir()
    with pytest.raises(InputError):
        load_asset(tmp_path / name)


def test_random_damage_never_escapes_as_another_error(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive(material=maker.textured_material(maker.image())))
    good = maker.glb()
    length = int.from_bytes(good[12:16], "little")
    rng = np.random.default_rng(1)
    refused = 0
    for number in range(150):
        data = bytearray(good)
        for _ in range(3):
            data[rng.integers(20, 20 + length)] = rng.integers(32, 127)
        path = tmp_path / f"{number % 5}.glb"
        path.write_bytes(bytes(data))
        try:
            load_asset(path)
        except InputError:
            refused += 1
    assert refused > 50
