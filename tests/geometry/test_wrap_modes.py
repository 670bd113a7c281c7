"""Samplers that mirror or clamp, under UVs that leave the unit square."""

from __future__ import annotations

import numpy as np
import pytest
from export_samples import picture

from seqtex_core.errors import ContractError
from seqtex_geometry import export_textured, load_asset, verify_unchanged
from seqtex_geometry.load.gltf_file import read_gltf_file

REPEAT, MIRRORED, CLAMP = 10497, 33648, 33071


@pytest.fixture
def box_with(gltf_maker, tmp_path):
    """Writes a box under a sampler whose UVs are given."""

    def write(uvs, **sampler):
        maker = gltf_maker()
        maker.entry("samplers", {"magFilter": 9728, **sampler})
        material = maker.textured_material(maker.image())
        maker.document["textures"][0]["sampler"] = 0
        primitive = maker.box_primitive(material=material)
        primitive["attributes"]["TEXCOORD_0"] = maker.accessor(uvs)
        maker.show(primitive)
        return maker.write_glb(tmp_path / "a.glb")

    return write


def sampler_of(path):
    document = read_gltf_file(path).document
    index = document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
    return document["samplers"][document["textures"][index]["sampler"]]


@pytest.mark.parametrize("tile", [-3, -1, 1, 2, 4])
def test_mirrored_charts_are_seen_where_the_texture_shows_them(box_with, tmp_path, box, tile):
    """Sides 0 to 2 lie in another repeat, turned over where that is turned over."""
    path = box_with(box.uvs)
    plain = load_asset(path).mesh.face_uvs
    moved = box.uvs.copy()
    moved[:12] = moved[:12] + tile if tile % 2 == 0 else tile + 1 - moved[:12]
    asset = load_asset(box_with(moved, wrapS=MIRRORED, wrapT=MIRRORED))
    assert np.allclose(asset.mesh.face_uvs, plain, atol=1e-6)
    assert not asset.notes
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    assert sampler_of(out) == {"magFilter": 9728, "wrapS": MIRRORED, "wrapT": MIRRORED}


@pytest.mark.parametrize("mode", [MIRRORED, CLAMP])
def test_textures_repeat_where_uvs_were_taken_as_repeating(box_with, tmp_path, box, mode):
    asset = load_asset(box_with(box.uvs * [2.5, 1], wrapS=mode, wrapT=mode))
    assert any("do not repeat" in note for note in asset.notes)
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    assert sampler_of(out) == {"magFilter": 9728, "wrapT": mode}
    document = read_gltf_file(out).document
    assert document["samplers"][0]["wrapS"] == mode  # the old texture's
    uvs = np.random.default_rng(0).random((12, 3, 2), dtype=np.float32)
    new = export_textured(asset, [picture()], tmp_path / "c.glb", extras={}, new_uvs=uvs).path
    assert sampler_of(new) == document["samplers"][0]


def test_samplers_inside_of_the_square_stay(box_with, tmp_path, box):
    asset = load_asset(box_with(box.uvs, wrapS=CLAMP, wrapT=MIRRORED))
    assert not asset.notes
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    assert len(read_gltf_file(out).document["samplers"]) == 1


def test_changed_samplers_are_noticed(box_with, tmp_path, box):
    asset = load_asset(box_with(box.uvs, wrapS=CLAMP))
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    out.write_bytes(out.read_bytes().replace(b"33071", b"33648"))
    with pytest.raises(ContractError, match="samplers"):
        verify_unchanged(asset, out)
