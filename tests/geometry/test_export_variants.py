"""KHR_materials_variants: the shown variant is painted, the others look as before."""

from __future__ import annotations

import numpy as np
import pytest
from export_samples import picture

from seqtex_core.errors import ContractError
from seqtex_geometry import export_textured, load_asset, verify_unchanged
from seqtex_geometry.export.gltf_builder import GltfBuilder
from seqtex_geometry.load.gltf import read_gltf
from seqtex_geometry.load.gltf_file import read_gltf_file

VARIANTS = "KHR_materials_variants"


def mapped(maker, material, *others):
    mappings = [{"material": item, "variants": [i]} for i, item in enumerate((material, *others))]
    part = maker.box_primitive(material=material)
    return {**part, "extensions": {VARIANTS: {"mappings": mappings}}}


def variant_of(path, primitive, number, out):
    """The file with another variant chosen, as a viewer would show it."""
    file = read_gltf_file(path)
    entry = file.document["meshes"][0]["primitives"][primitive]
    entry["material"] = entry["extensions"][VARIANTS]["mappings"][number]["material"]
    out.write_bytes(GltfBuilder(file.document, file.buffers).pack_glb(out))
    return read_gltf(out)


def shown(parsed, primitive):
    """Image and UVs that the faces of a primitive show."""
    ref = parsed.primitives[primitive]
    rows = slice(ref.first_face, ref.first_face + ref.num_faces)
    material = parsed.materials[parsed.face_material[ref.first_face]]
    return material.base_color_image, parsed.face_uvs[rows]


@pytest.fixture
def two(gltf_maker, tmp_path, png):
    """Two boxes with materials a and b; a, and b of a material that the other box shows."""
    maker = gltf_maker()
    a = maker.textured_material(maker.image(png((1, 2, 3))))
    b = maker.textured_material(maker.image(png((9, 8, 7))))
    c = maker.textured_material(maker.image(png((4, 4, 4))))
    maker.document["materials"][b]["normalTexture"] = {"index": 0}
    maker.document["extensions"] = {VARIANTS: {"variants": [{"name": name} for name in "xyz"]}}
    maker.document["extensionsUsed"] = [VARIANTS]
    maker.show(mapped(maker, a, b, c), mapped(maker, b, a))
    return load_asset(maker.write_glb(tmp_path / "a.glb"))


@pytest.mark.parametrize("new", [False, True])
def test_other_variants_look_as_before(two, tmp_path, new):
    uvs = np.random.default_rng(0).random((24, 3, 2), dtype=np.float32) if new else None
    textures = [picture()] if new else [picture(0), picture(1)]
    report = export_textured(two, textures, tmp_path / "b.glb", extras={}, new_uvs=uvs)
    assert any("variants" in note for note in report.notes)
    for primitive in (0, 1):
        image, _ = shown(variant_of(report.path, primitive, 0, tmp_path / "c.glb"), primitive)
        assert np.array_equal(image[..., :3], textures[min(primitive, len(textures) - 1)])
    for primitive, number in ((0, 1), (0, 2), (1, 1)):
        before = shown(variant_of(two.path, primitive, number, tmp_path / "d.glb"), primitive)
        after = shown(variant_of(report.path, primitive, number, tmp_path / "e.glb"), primitive)
        for was, now in zip(before, after, strict=True):
            assert np.array_equal(was, now)
    document = read_gltf_file(report.path).document
    other = document["meshes"][0]["primitives"][0]["extensions"][VARIANTS]["mappings"][1]
    normal = document["materials"][other["material"]]["normalTexture"]
    assert normal.get("texCoord", 0) == int(new)


@pytest.mark.parametrize("new", [False, True])
def test_the_shown_variant_follows_a_material_that_was_copied(gltf_maker, tmp_path, new):
    """A primitive that is not painted keeps the material: in a variant, or without UVs."""
    maker = gltf_maker()
    a, b = (maker.textured_material(maker.image()) for _ in range(2))
    maker.document["extensionsUsed"] = [VARIANTS]
    bare = mapped(maker, b, a)
    del bare["attributes"]["TEXCOORD_0"]
    maker.show(mapped(maker, a, b), bare, {**mapped(maker, b, a), "mode": 1})
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = np.random.default_rng(0).random((24, 3, 2), dtype=np.float32) if new else None
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    image, _ = shown(variant_of(out, 0, 0, tmp_path / "c.glb"), 0)
    assert np.array_equal(image[..., :3], picture())
    lines = read_gltf_file(out).document["meshes"][0]["primitives"][2]
    assert lines == asset.document.document["meshes"][0]["primitives"][2]
    for material in (a, b):
        assert (
            read_gltf_file(out).document["materials"][material]
            == (asset.document.document["materials"][material])
        )


def test_changed_variants_are_noticed(two, tmp_path):
    out = export_textured(two, [picture(0), picture(1)], tmp_path / "b.glb", extras={}).path
    data = out.read_bytes()
    assert data.count(b'"variants":[2]') == 1
    out.write_bytes(data.replace(b'"variants":[2]', b'"variants":[1]'))
    with pytest.raises(ContractError, match="variants"):
        verify_unchanged(two, out)
