"""Vertex colours of what gets a texture: viewers would multiply them with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export_samples import picture

from seqtex_core.errors import ContractError
from seqtex_geometry import export_textured, load_asset, verify_unchanged
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.load.gltf_accessors import read_floats, read_stored
from seqtex_geometry.load.gltf_file import read_gltf_file
from seqtex_geometry.rasterize.reference import REFERENCE
from seqtex_geometry.render import render_textured
from seqtex_geometry.working_copy import normalize


def tinted_box(maker, colors, dtype="f4", **more):
    primitive = maker.box_primitive(**more)
    normalized = {} if dtype == "f4" else {"normalized": True}
    primitive["attributes"]["COLOR_0"] = maker.accessor(colors, dtype, **normalized)
    return primitive


def new_uvs(asset):
    """Some layout; which one does not matter to colours."""
    shape = (len(asset.mesh.faces), 3, 2)
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def seen(mesh, axes, textures=None):
    working, _ = normalize(mesh, axes)
    cameras = CameraRig.seqtex(diagonal=3.4).select("front")
    given = None if textures is None else [torch.tensor(t).permute(2, 0, 1) / 255 for t in textures]
    return render_textured(working, given, cameras, height=24, width=24, rasterizer=REFERENCE)


@pytest.mark.parametrize("new", [False, True])
def test_a_viewer_shows_the_texture_and_nothing_else(gltf_maker, tmp_path, new):
    """Seen with image, factor and vertex colours multiplied, as every viewer does."""
    maker = gltf_maker()
    plain = maker.entry("materials", {"pbrMetallicRoughness": {"baseColorFactor": [0, 1, 0, 1]}})
    maker.show(tinted_box(maker, np.tile([255, 80, 0], (24, 1)), "u1", material=plain))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = new_uvs(asset) if new else None
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs)
    written = load_asset(out.path).mesh
    shown = seen(written, asset.axes)
    assert torch.equal(shown, seen(written, asset.axes, [picture()]))
    assert any("tint" in note for note in out.notes)


@pytest.mark.parametrize("new", [False, True])
def test_colours_are_kept_under_a_name_of_their_own(gltf_maker, tmp_path, new):
    maker = gltf_maker()
    colors = np.random.default_rng(0).integers(0, 65536, (24, 3))
    tinted, white = tinted_box(maker, colors, "u2"), tinted_box(maker, np.ones((24, 3)))
    tinted["attributes"]["_COLOR_0"] = maker.accessor(np.arange(24.0))
    tinted["targets"] = [{"COLOR_0": maker.accessor(np.zeros((24, 3)))}]
    maker.show(tinted, white, tinted_box(maker, colors, "u2", uvs=False))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = new_uvs(asset) if new else None
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    file = read_gltf_file(out)
    painted, untinted, bare = file.document["meshes"][0]["primitives"]
    assert "COLOR_0" not in painted["attributes"]
    kept = read_stored(file, painted["attributes"]["__COLOR_0"])
    assert len(np.unique(kept, axis=0)) == len(np.unique(colors, axis=0))
    if not new:
        assert np.array_equal(kept, colors)
    assert set(painted["targets"][0]) == {"__COLOR_0"}
    assert "COLOR_0" in untinted["attributes"]
    assert ("COLOR_0" in bare["attributes"]) == (not new)  # without UVs it is not painted


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(("dtype", "full"), [("f4", 1.0), ("u1", 255), ("u2", 65535)])
def test_alpha_of_colours_keeps_its_meaning(gltf_maker, tmp_path, new, dtype, full):
    maker = gltf_maker()
    colors = np.tile([0.2 * full, full, full, full], (24, 1))
    colors[:, 3] = np.linspace(0, full, 24)
    material = maker.entry("materials", {"alphaMode": "BLEND"})
    maker.show(tinted_box(maker, colors, dtype, material=material))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    uvs = new_uvs(asset) if new else None
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}, new_uvs=uvs).path
    before, after = asset.mesh, load_asset(out).mesh
    alpha = [mesh.vertex_colors[mesh.faces] for mesh in (before, after)]
    assert np.array_equal(alpha[0][..., 3], alpha[1][..., 3])
    assert (alpha[1][..., :3] == 1).all()
    file = read_gltf_file(out)
    kept = file.document["meshes"][0]["primitives"][0]["attributes"]["_COLOR_0"]
    assert np.isclose(read_floats(file, kept)[:, 0], 0.2, atol=1 / 255).all()


def test_changed_alpha_is_noticed(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(tinted_box(maker, np.tile([1, 0, 0, 0.5], (24, 1))))
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    out = export_textured(asset, [picture()], tmp_path / "b.glb", extras={}).path
    data = out.read_bytes()
    white = np.tile([1, 1, 1, 0.5], (24, 1)).astype("<f4").tobytes()
    assert white in data
    out.write_bytes(data.replace(white, np.ones((24, 4), "<f4").tobytes()))
    with pytest.raises(ContractError, match="alpha"):
        verify_unchanged(asset, out)


_TRIANGLE = "vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


@pytest.mark.parametrize("new", [False, True])
def test_an_obj_loses_colours_that_tint(tmp_path, new):
    vertices = "v 0 0 0 1 1 0 # a\r\nv 1 0.50 0 \\\n 0 1 0\nv 0 1 0 1 1 0\n"
    (tmp_path / "a.obj").write_bytes((vertices + _TRIANGLE).encode())
    asset = load_asset(tmp_path / "a.obj")
    uvs = new_uvs(asset) if new else None
    out = export_textured(asset, [picture()], tmp_path / "b.obj", extras={}, new_uvs=uvs)
    assert any("left out" in note for note in out.notes)
    written = load_asset(out.path).mesh
    assert written.vertex_colors is None
    assert np.array_equal(written.vertices, asset.mesh.vertices)
    assert b"v 1 0.50 0\r\n" in out.path.read_bytes()


def test_faces_of_an_obj_that_stay_keep_their_colours(tmp_path):
    vertices = "".join(f"v {i} {i % 2} {i % 3} 0.5 0.25 1\n" for i in range(6))
    (tmp_path / "a.obj").write_text(vertices + _TRIANGLE + "f 4 5 6\n")
    asset = load_asset(tmp_path / "a.obj")
    out = export_textured(asset, [picture()], tmp_path / "b.obj", extras={}).path
    written = load_asset(out).mesh
    assert (written.vertex_colors[written.faces[0]] == 1).all()
    assert np.array_equal(written.vertex_colors[3:], asset.mesh.vertex_colors[3:])


def test_white_colours_of_an_obj_stay(tmp_path):
    text = "v 0 0 0 1 1 1\nv 1 0 0 1 1 1\nv 0 1 0 1 1 1\n"
    (tmp_path / "a.obj").write_text(text + _TRIANGLE)
    out = export_textured(
        load_asset(tmp_path / "a.obj"), [picture()], tmp_path / "b.obj", extras={}
    )
    assert text in out.path.read_text()
    assert out.notes == ()
