"""glTF export: only the base colour changes, by our own check, by hand and by other readers."""

from __future__ import annotations

import copy
import io
import json
import struct

import numpy as np
import pygltflib
import pytest
import trimesh
from export_samples import EXTRAS, picture
from PIL import Image

from seqtex_core.errors import ContractError
from seqtex_geometry import export_textured, load_asset, unwrap, verify_unchanged
from seqtex_geometry.load.gltf_file import read_gltf_file


def test_authors_uvs_only_the_image_changes(rich_glb, tmp_path):
    asset = load_asset(rich_glb)
    report = export_textured(asset, [picture()], tmp_path / "out.glb", extras=EXTRAS)
    old, new = read_gltf_file(rich_glb), read_gltf_file(report.path)
    before, after = copy.deepcopy(old.document), copy.deepcopy(new.document)
    assert new.buffers[0].startswith(old.buffers[0])
    for kind in ("accessors", "nodes", "skins", "animations", "scenes", "samplers"):
        assert before[kind] == after[kind], kind
    for kind in ("bufferViews", "images", "textures", "materials"):
        assert after[kind][: len(before[kind])] == before[kind], kind
    # the UV-less primitive shares the material, so the painted one gets a copy
    primitive = after["meshes"][0]["primitives"][0]
    assert primitive.pop("material") == 1
    before["meshes"][0]["primitives"][0].pop("material")
    assert before["meshes"] == after["meshes"]
    changed = after["materials"][1]
    base = changed["pbrMetallicRoughness"]
    assert base.pop("baseColorFactor") == [1.0, 1.0, 1.0, 0.75]
    base["baseColorTexture"]["index"] = 0
    original = before["materials"][0]
    original["pbrMetallicRoughness"].pop("baseColorFactor")
    assert changed == original
    assert after["textures"][2] == {"sampler": 0, "source": 2}
    assert after["asset"]["extras"] == {"keep": True, "seqtex": EXTRAS}
    shown = load_asset(report.path).mesh.materials[1].base_color_image
    assert np.array_equal(shown[..., :3], picture())


def test_a_material_of_its_own_is_changed_in_place(box_glb, tmp_path):
    asset = load_asset(box_glb)
    report = export_textured(asset, [picture()], tmp_path / "out.glb", extras={})
    after = read_gltf_file(report.path).document
    assert after["meshes"] == asset.document.document["meshes"]
    assert len(after["materials"]) == 1
    info = after["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    assert after["textures"][info["index"]]["source"] == 1


def test_uvs_without_material_or_image(gltf_maker, tmp_path):
    maker = gltf_maker()
    plain = maker.entry("materials", {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}})
    maker.show(maker.box_primitive(), maker.box_primitive(material=plain))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    report = export_textured(asset, [picture(0), picture(1)], tmp_path / "b.glb", extras={})
    mesh = load_asset(report.path).mesh
    for part, seed in ((0, 0), (12, 1)):
        material = mesh.materials[mesh.face_material[part]]
        assert np.array_equal(material.base_color_image[..., :3], picture(seed))
        assert material.base_color_factor == (1.0, 1.0, 1.0, 1.0)


def test_specular_glossiness_is_repainted(gltf_maker, tmp_path):
    maker = gltf_maker()
    name = "KHR_materials_pbrSpecularGlossiness"
    texture = maker.entry("textures", {"source": maker.image()})
    glossy = {"diffuseTexture": {"index": texture}, "diffuseFactor": [0.5, 0.5, 0.5, 1]}
    material = maker.entry("materials", {"extensions": {name: {**glossy, "glossinessFactor": 0}}})
    maker.show(maker.box_primitive(material=material))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    report = export_textured(asset, [picture()], tmp_path / "b.glb", extras={})
    entry = read_gltf_file(report.path).document["materials"][0]
    assert entry["extensions"][name] == {
        "diffuseTexture": {"index": 1},
        "diffuseFactor": [1.0, 1.0, 1.0, 1],
        "glossinessFactor": 0,
    }
    assert entry["pbrMetallicRoughness"] == {"baseColorTexture": {"index": 1}}


@pytest.mark.parametrize("fallback", [{}, {"baseColorFactor": [1, 0, 0, 1]}])
def test_glass_in_specular_glossiness_stays_glass(gltf_maker, tmp_path, fallback):
    maker = gltf_maker()
    name = "KHR_materials_pbrSpecularGlossiness"
    entry = {"extensions": {name: {"diffuseFactor": [0.5, 0.5, 0.5, 0.25]}}, "alphaMode": "BLEND"}
    entry |= {"pbrMetallicRoughness": fallback} if fallback else {}
    maker.show(maker.box_primitive(material=maker.entry("materials", entry)))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    report = export_textured(asset, [picture()], tmp_path / "b.glb", extras={})
    made = read_gltf_file(report.path).document["materials"][0]
    assert made["extensions"][name]["diffuseFactor"] == [1.0, 1.0, 1.0, 0.25]
    assert made["pbrMetallicRoughness"]["baseColorFactor"] == [1.0, 1.0, 1.0, 0.25]


def test_cut_out_alpha_survives(gltf_maker, tmp_path, png):
    maker = gltf_maker()
    material = maker.textured_material(maker.image(png((10, 20, 30, 0))))
    maker.document["materials"][0]["alphaMode"] = "MASK"
    maker.show(maker.box_primitive(material=material))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    report = export_textured(asset, [picture()], tmp_path / "b.glb", extras={})
    image = load_asset(report.path).mesh.materials[0].base_color_image
    assert np.array_equal(image[..., :3], picture())
    assert (image[..., 3] == 0).all()
    own_alpha = picture(channels=4)
    report = export_textured(asset, [own_alpha], tmp_path / "c.glb", extras={})
    assert np.array_equal(load_asset(report.path).mesh.materials[0].base_color_image, own_alpha)


@pytest.mark.parametrize("factor", [None, [0, 0, 0], [0, 0.5, 0]])
def test_glow_of_the_old_look_is_told(gltf_maker, tmp_path, factor):
    maker = gltf_maker()
    material = maker.textured_material(maker.image())
    entry = maker.document["materials"][material]
    entry |= {"emissiveTexture": {"index": 0}, "name": "lamp"}
    entry |= {} if factor is None else {"emissiveFactor": factor}
    maker.show(maker.box_primitive(material=material))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    notes = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).notes
    glows = factor is not None and any(factor)
    assert [note for note in notes if "lamp" in note and "emissive" in note] == list(notes)
    assert len(notes) == glows


def test_cut_out_alpha_moves_with_the_surface(gltf_maker, tmp_path):
    """With new UVs every place of the surface is as opaque as before; opaque materials stay so."""
    maker = gltf_maker()
    pixels = np.full((64, 64, 4), 128, np.uint8)
    pixels[..., 3] = 255 * (np.indices((64, 64)).sum(0) // 8 % 2)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    image = maker.image(stream.getvalue())
    leaf, solid = (maker.textured_material(image) for _ in range(2))
    maker.document["materials"][leaf]["alphaMode"] = "MASK"
    maker.show(maker.box_primitive(material=leaf), maker.box_primitive(material=solid))
    maker.document["nodes"][0]["translation"] = [3, 0, 0]
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = unwrap(asset.mesh).face_uvs
    texture = picture(size=(256, 256))
    out = export_textured(asset, [texture], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    written = load_asset(out).mesh
    inside = np.random.default_rng(0).dirichlet((2, 2, 2), 400).astype(np.float32)
    before = alpha_at(asset.mesh, inside)
    after = alpha_at(written, inside)
    assert (after[12:] == 255).all()
    # Nearest lookups differ within a texel of the 8 pixel squares' edges only.
    assert (np.abs(before[:12] - after[:12]) < 64).mean() > 0.8
    assert 0.4 < (after[:12] > 127).mean() < 0.6


def alpha_at(mesh, weights):
    """Alpha at points of every face, looked up without a filter, ``[T, N]``."""
    points = np.einsum("nk,tkc->tnc", weights, mesh.face_uvs)
    found = []
    for face, uvs in enumerate(points):
        image = mesh.materials[mesh.face_material[face]].base_color_image
        size = np.array([image.shape[1], image.shape[0]])
        column, row = ((uvs * [1, -1] + [0, 1]) * size).astype(int).clip(0, size - 1).T
        found.append(image[row, column, 3].astype(int))
    return np.array(found)


def test_new_uvs_carry_every_attribute(rich_glb, tmp_path):
    asset = load_asset(rich_glb)
    uvs = unwrap(asset.mesh).face_uvs
    report = export_textured(asset, [picture()], tmp_path / "o.glb", extras=EXTRAS, new_uvs=uvs)
    written = load_asset(report.path)
    assert np.array_equal(
        written.mesh.vertices[written.mesh.faces], asset.mesh.vertices[asset.mesh.faces]
    )
    assert np.allclose(written.mesh.face_uvs, uvs, atol=1e-7)  # 1 - (1 - v) in float32
    document = written.document.document
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    assert set(attributes) == {
        "POSITION", "NORMAL", "TANGENT", "_CUSTOM", "JOINTS_0", "WEIGHTS_0",
        "TEXCOORD_0", "TEXCOORD_1", "TEXCOORD_2",
    }  # fmt: skip
    entry = document["materials"][document["meshes"][0]["primitives"][0]["material"]]
    assert entry["normalTexture"]["texCoord"] == 2
    assert entry["pbrMetallicRoughness"]["metallicRoughnessTexture"]["texCoord"] == 1
    assert set(entry["pbrMetallicRoughness"]["baseColorTexture"]) == {"index"}
    for name in ("POSITION",):
        accessor = document["accessors"][attributes[name]]
        assert accessor["count"] >= 24


def test_bounds_that_json_cannot_hold_are_left_out(gltf_maker, tmp_path, box):
    """Exporters in JavaScript write null as the bounds of normals that are not numbers."""
    maker = gltf_maker()
    normals = box.normals.copy()
    normals[0] = np.nan
    primitive = maker.box_primitive()
    primitive["attributes"]["NORMAL"] = maker.accessor(normals, min=[None] * 3, max=[None] * 3)
    maker.show(primitive)
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = unwrap(asset.mesh).face_uvs
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    assert b"NaN" not in out.read_bytes()
    document = read_gltf_file(out).document
    made = document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]
    assert "min" not in document["accessors"][made]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("ending", ["glb", "gltf"])
def test_second_readers(rich_glb, tmp_path, new, ending):
    asset = load_asset(rich_glb)
    uvs = unwrap(asset.mesh).face_uvs if new else None
    out = tmp_path / f"sub folder/o.{ending}"
    report = export_textured(asset, [picture()], out, extras=EXTRAS, new_uvs=uvs)
    assert sum(len(part.faces) for part in trimesh.load(out).geometry.values()) == 24
    second = pygltflib.GLTF2().load(str(out))
    assert second.asset.extras["seqtex"] == EXTRAS
    primitive = second.meshes[0].primitives[0]
    info = second.materials[primitive.material].pbrMetallicRoughness.baseColorTexture
    image = second.images[second.textures[info.index].source]
    if ending == "gltf":
        assert (out.parent / image.uri) in report.files
    else:
        view = second.bufferViews[image.bufferView]
        blob = second.binary_blob()
        assert blob[view.byteOffset : view.byteOffset + 4] == b"\x89PNG"
        assert second.buffers[0].byteLength == len(blob)
    assert not list(out.parent.glob(".seqtex*"))


def test_external_files_travel(gltf_maker, tmp_path, png):
    maker = gltf_maker()
    image = maker.entry("images", {"uri": "tex/coat%20one.png"})
    material = maker.textured_material(image)
    maker.show(maker.box_primitive(material=material))
    (tmp_path / "in" / "tex").mkdir(parents=True)
    (tmp_path / "in/tex/coat one.png").write_bytes(png())
    path = maker.write_gltf(tmp_path / "in" / "a.gltf", buffer_uri="a%20b.bin")
    asset = load_asset(path)
    packed = export_textured(asset, [picture()], tmp_path / "out/a.glb", extras={})
    assert [file.name for file in packed.files] == ["a.glb"]
    document = read_gltf_file(packed.path).document
    assert all("uri" not in entry for entry in document["images"] + document["buffers"])
    loose = export_textured(asset, [picture()], tmp_path / "out/b.gltf", extras={})
    names = sorted(str(file.relative_to(tmp_path / "out")) for file in loose.files)
    assert names == ["a b.bin", "b.gltf", "b_basecolor_0.png", "tex/coat one.png"]
    beside = export_textured(asset, [picture()], tmp_path / "in/c.gltf", extras={})
    assert beside.path.exists()
    assert path.read_bytes() == asset.source


def test_several_buffers_become_one(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive())
    document = maker.finished()
    parts = []
    for view in document["bufferViews"]:
        start, length = view["byteOffset"], view["byteLength"]
        parts.append({"uri": f"{len(parts)}.bin", "byteLength": length})
        (tmp_path / parts[-1]["uri"]).write_bytes(bytes(maker.blob[start : start + length]))
        view |= {"buffer": len(parts) - 1, "byteOffset": 0}
    document["buffers"] = parts
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    asset = load_asset(tmp_path / "a.gltf")
    report = export_textured(asset, [picture()], tmp_path / "b.glb", extras={})
    assert len(read_gltf_file(report.path).document["buffers"]) == 1


def test_primitives_without_material_of_which_one_has_no_uvs(gltf_maker, tmp_path):
    maker = gltf_maker()
    lines = maker.box_primitive(mode=1)
    maker.show(maker.box_primitive(), maker.box_primitive(uvs=False), lines)
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    report = export_textured(asset, [picture()], tmp_path / "b.glb", extras={})
    primitives = read_gltf_file(report.path).document["meshes"][0]["primitives"]
    assert [primitive.get("material") for primitive in primitives] == [0, None, None]


@pytest.mark.parametrize("new", [False, True])
def test_extras_beside_the_replaced_texture_stay(gltf_maker, tmp_path, new):
    maker = gltf_maker()
    more = {
        "extras": {"source": "scan"},
        "extensions": {"KHR_texture_transform": {"scale": [2, 2]}, "EXT_other": {"a": 1}},
    }
    material = maker.textured_material(maker.image(), **more)
    maker.show(maker.box_primitive(material=material))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = unwrap(asset.mesh, timeout_s=60).face_uvs if new else None
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    entry = read_gltf_file(out).document["materials"][0]
    info = entry["pbrMetallicRoughness"]["baseColorTexture"]
    assert info["extras"] == more["extras"]
    kept = {"EXT_other": {"a": 1}} if new else more["extensions"]
    assert info["extensions"] == kept


def test_other_glb_chunks_survive(box_glb, tmp_path):
    chunk = struct.pack("<II", 8, 0x54534554) + b"contents"
    data = bytearray(box_glb.read_bytes() + chunk)
    data[8:12] = struct.pack("<I", len(data))
    box_glb.write_bytes(data)
    asset = load_asset(box_glb)
    out = export_textured(asset, [picture()], tmp_path / "o.glb", extras={}).path
    assert out.read_bytes().endswith(chunk)
    cut = bytearray(out.read_bytes()[: -len(chunk)])
    cut[8:12] = struct.pack("<I", len(cut))
    out.write_bytes(cut)
    with pytest.raises(ContractError, match="chunks"):
        verify_unchanged(asset, out)


def test_names_that_utf8_cannot_hold(gltf_maker, tmp_path):
    """JSON may name half a surrogate pair; some exporters cut names in the middle of one."""
    maker = gltf_maker()
    maker.show(maker.box_primitive(material=maker.textured_material(maker.image())), name="\ud83d")
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    assert read_gltf_file(out).document["nodes"][0]["name"] == "\ud83d"


def test_same_input_same_bytes(rich_glb, tmp_path):
    asset = load_asset(rich_glb)
    files = [
        export_textured(asset, [picture()], tmp_path / name, extras=EXTRAS).path.read_bytes()
        for name in ("a.glb", "b.glb")
    ]
    assert files[0] == files[1]


def test_painting_twice(box_glb, tmp_path):
    first = export_textured(load_asset(box_glb), [picture()], tmp_path / "a.glb", extras={"n": 1})
    again = load_asset(first.path)
    second = export_textured(again, [picture(1)], tmp_path / "b.glb", extras={"n": 2})
    document = read_gltf_file(second.path).document
    assert document["asset"]["extras"]["seqtex"] == {"n": 2}
    shown = load_asset(second.path).mesh.materials[0].base_color_image
    assert np.array_equal(shown[..., :3], picture(1))
