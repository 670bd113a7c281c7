"""glTF reading: against values worked out by hand, and against trimesh as a second reader."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh

from seqtex_core.errors import InputError
from seqtex_geometry import export_textured
from seqtex_geometry.asset import load_asset
from seqtex_geometry.export.publish import source_files

# float32 positions through float64 matrices, rounded once: one unit in the last place of ~4
POSITION_TOLERANCE = 5e-7


def corners(asset):
    return asset.mesh.vertices[asset.mesh.faces]


def trimesh_corners(path):
    scene = trimesh.load(path, process=False, force="scene")
    dumped = [geometry.triangles for geometry in scene.dump()]
    return np.concatenate(dumped)


def test_node_chain_matches_trimesh(gltf_maker, tmp_path):
    maker = gltf_maker()
    child = maker.show(
        maker.box_primitive(), translation=[1, 2, 3], rotation=[0.1, 0.7, 0.1, 0.7], name="child"
    )
    parent = maker.entry(
        "nodes",
        {
            "children": [child],
            "matrix": [2, 0, 0, 0, 0, 0, 2, 0, 0, -2, 0, 0, 5, 6, 7, 1],
            "name": "parent",
        },
    )
    maker.document["scenes"] = [{"nodes": [parent]}]
    path = maker.write_glb(tmp_path / "a.glb")
    got = corners(load_asset(path))
    assert np.abs(got - trimesh_corners(path)).max() < 20 * POSITION_TOLERANCE


@pytest.mark.parametrize("kind", ["glb", "data", "file"])
def test_containers_agree(gltf_maker, tmp_path, kind, box):
    maker = gltf_maker()
    maker.show(maker.box_primitive())
    if kind == "glb":
        path = maker.write_glb(tmp_path / "a.glb")
    else:
        uri = None if kind == "data" else "my%20buffer.bin"
        path = maker.write_gltf(tmp_path / "a.gltf", buffer_uri=uri)
    asset = load_asset(path)
    assert np.array_equal(corners(asset), box.vertices[box.faces])
    expected = np.stack([box.uvs[..., 0], 1 - box.uvs[..., 1]], -1)[box.faces]
    assert np.array_equal(asset.mesh.face_uvs, expected)
    assert asset.source == path.read_bytes()


def test_interleaved_normalised_and_sparse(gltf_maker, tmp_path, box):
    maker = gltf_maker()
    record = np.zeros(24, [("p", "<f4", 3), ("uv", "<u2", 2)])
    record["p"], record["uv"] = box.vertices, np.rint(box.uvs * 65535)
    view = maker.view(record.tobytes(), byteStride=16)
    shared = {"bufferView": view, "count": 24}
    moved_rows = maker.view(np.array([3, 20], "<u2").tobytes())
    moved_to = maker.view(np.array([[9, 9, 9], [8, 8, 8]], "<f4").tobytes())
    sparse = {
        "count": 2,
        "indices": {"bufferView": moved_rows, "componentType": 5123},
        "values": {"bufferView": moved_to},
    }
    position = maker.entry(
        "accessors", {**shared, "componentType": 5126, "type": "VEC3", "sparse": sparse}
    )
    uv = {"componentType": 5123, "type": "VEC2", "normalized": True, "byteOffset": 12}
    attributes = {"POSITION": position, "TEXCOORD_0": maker.entry("accessors", {**shared, **uv})}
    maker.show({"attributes": attributes, "indices": maker.accessor(box.faces.ravel(), "u1")})
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    expected = box.vertices.copy()
    expected[[3, 20]] = [[9, 9, 9], [8, 8, 8]]
    assert np.array_equal(mesh.vertices, expected)
    # 16-bit UVs: half a step of 1/65535
    assert np.abs(1 - mesh.face_uvs[..., 1] - box.uvs[box.faces][..., 1]).max() < 0.51 / 65535


@pytest.mark.parametrize(
    ("mode", "order", "expected"),
    [
        (4, None, [[0, 1, 2], [3, 4, 5]]),
        (4, [5, 4, 3, 2, 1, 0], [[5, 4, 3], [2, 1, 0]]),
        (5, [0, 1, 2, 3, 4], [[0, 1, 2], [1, 3, 2], [2, 3, 4]]),
        (6, [0, 1, 2, 3, 4], [[1, 2, 0], [2, 3, 0], [3, 4, 0]]),
    ],
)
def test_triangle_modes(gltf_maker, tmp_path, mode, order, expected):
    maker = gltf_maker()
    positions = np.random.default_rng(0).normal(size=(6, 3))
    primitive = {"attributes": {"POSITION": maker.accessor(positions)}, "mode": mode}
    if order is not None:
        primitive["indices"] = maker.accessor(np.array(order), "u2")
    maker.show(primitive)
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    assert mesh.faces.tolist() == expected


def test_mirrored_node_keeps_outside_outside(gltf_maker, tmp_path, box):
    maker = gltf_maker()
    maker.show(maker.box_primitive(), scale=[-1, 1, 1])
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    triangles = corners(asset).astype(np.float64)
    volume = np.einsum("ti,ti->", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])) / 6
    assert volume == pytest.approx(8.0)
    faces = asset.mesh.faces
    geometric = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    authored = asset.mesh.vertex_normals[faces].mean(axis=1)
    assert (np.einsum("ti,ti->t", geometric, authored) > 0).all()
    assert asset.primitives[0].is_flipped


def test_normals_under_uneven_scale(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive(), scale=[1, 3, 0.5], rotation=[0.2, 0.4, 0.1, 0.9])
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    triangles = corners(asset).astype(np.float64)
    geometric = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    geometric /= np.linalg.norm(geometric, axis=1, keepdims=True)
    authored = asset.mesh.vertex_normals[asset.mesh.faces]
    # flat sides stay flat; float32 positions of size ~4 leave about 1e-6
    assert np.abs(authored - geometric[:, None]).max() < 5e-6


def test_skin_follows_its_joints(gltf_maker, tmp_path):
    maker = gltf_maker()
    primitive = {
        "attributes": {
            "POSITION": maker.accessor(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])),
            "JOINTS_0": maker.accessor(np.array([[0, 1, 0, 0]] * 3), "u1"),
            "WEIGHTS_0": maker.accessor(np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0]])),
        }
    }
    node = maker.show(primitive, translation=[100, 0, 0])
    joints = [maker.entry("nodes", {"translation": [0, 0, shift]}) for shift in (1, 3)]
    inverse = np.tile(np.eye(4), (2, 1, 1))
    inverse[1, 3, 0] = 5.0  # column major: a translation of +5 in x
    skin = {"joints": joints, "inverseBindMatrices": maker.accessor(inverse.reshape(2, 16))}
    maker.document["nodes"][node]["skin"] = maker.entry("skins", skin)
    maker.document["scenes"][0]["nodes"] += joints
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    # joint 0 shifts z by 1; joint 1 shifts x by 5 and z by 3; the node's own place is ignored
    expected = [[0, 0, 1], [6, 0, 3], [2.5, 1, 2]]
    assert np.allclose(mesh.vertices, expected, atol=POSITION_TOLERANCE)


def test_morph_weights_are_applied(gltf_maker, tmp_path, box):
    maker = gltf_maker()
    target = {"POSITION": maker.accessor(np.tile([0, 1, 0], (24, 1)))}
    node = maker.show(maker.box_primitive(targets=[target]))
    maker.document["meshes"][0]["weights"] = [0.25]
    first = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    assert np.allclose(first.vertices, box.vertices + np.array([0, 0.25, 0]))
    maker.document["nodes"][node]["weights"] = [1.0]
    second = load_asset(maker.write_glb(tmp_path / "b.glb")).mesh
    assert np.allclose(second.vertices, box.vertices + np.array([0, 1, 0]))


def test_texture_sets(gltf_maker, tmp_path, png):
    maker = gltf_maker()
    shared, again, other = maker.image(), maker.image(), maker.image(png((1, 2, 3)))
    materials = [maker.textured_material(image) for image in (shared, other, again)]
    plain = [maker.entry("materials", {"name": name}) for name in ("a", "b")]
    for material in (*materials, *plain):
        maker.show(maker.box_primitive(material=material))
    maker.show(maker.box_primitive(uvs=False, material=materials[0]), name="bare")
    maker.show(maker.box_primitive())
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    sets = asset.mesh.face_texture_set.reshape(-1, 12)[:, 0].tolist()
    # equal image bytes share a square; plain materials have one each; no UVs, no set
    assert sets == [0, 1, 0, 2, 3, -1, 4]
    assert asset.mesh.num_texture_sets == 5
    assert any("bare" in note for note in asset.notes)


def test_instances_share_texels(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive())
    for node in ({"translation": [5, 0, 0]}, {"scale": [1, 1, -1]}):
        index = maker.entry("nodes", {"mesh": 0, **node})
        maker.document["scenes"][0]["nodes"].append(index)
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    assert mesh.faces_of_set(0).tolist() == list(range(12))
    assert (mesh.face_texture_set == 0).all()
    assert mesh.face_is_instance.tolist() == [False] * 12 + [True] * 24
    flat = mesh.face_uvs.reshape(-1, 2)
    assert np.array_equal(flat[mesh.corner_source], mesh.face_uvs)


def test_gpu_instances_are_expanded(gltf_maker, tmp_path, box):
    maker = gltf_maker()
    moves = maker.accessor(np.array([[0, 0, 0], [4, 0, 0], [8, 0, 0]]))
    extension = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": moves}}}
    maker.show(maker.box_primitive(), extensions=extension)
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    expected = np.concatenate([box.vertices + np.array([shift, 0, 0]) for shift in (0, 4, 8)])
    assert np.allclose(mesh.vertices, expected)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"offset": [0.5, 0.25]}, (0.75, 0.75)),
        ({"scale": [2, 3]}, (0.5, 1.5)),
        # a quarter turn sends u to -v and v to u: counter-clockwise on screen, where v is down
        ({"rotation": np.pi / 2}, (0.5, -0.25)),
        ({"rotation": np.pi / 2, "scale": [2, 1], "offset": [1, 1]}, (1.5, 0.5)),
    ],
)
def test_texture_transform(gltf_maker, tmp_path, transform, expected):
    maker = gltf_maker()
    extension = {"extensions": {"KHR_texture_transform": transform}}
    material = maker.textured_material(maker.image(), **extension)
    primitive = {
        "attributes": {
            "POSITION": maker.accessor(np.eye(3)),
            "TEXCOORD_0": maker.accessor(np.tile([0.25, 0.5], (3, 1))),
        },
        "material": material,
    }
    maker.show(primitive)
    uv = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh.face_uvs[0, 0]
    assert np.allclose(uv, (expected[0], 1 - expected[1]), atol=1e-6)


def test_other_uv_set_and_specular_glossiness(gltf_maker, tmp_path, box):
    maker = gltf_maker()
    texture = maker.entry("textures", {"source": maker.image()})
    glossy = {"diffuseTexture": {"index": texture, "texCoord": 1}, "diffuseFactor": [1, 0, 0, 1]}
    name = "KHR_materials_pbrSpecularGlossiness"
    material = maker.entry("materials", {"extensions": {name: glossy}})
    primitive = maker.box_primitive(material=material)
    primitive["attributes"]["TEXCOORD_1"] = maker.accessor(box.uvs * 0.5)
    maker.show(primitive)
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    assert np.allclose(mesh.face_uvs[..., 0], box.uvs[box.faces][..., 0] * 0.5)
    assert mesh.materials[0].base_color_factor == (1.0, 0.0, 0.0, 1.0)
    assert mesh.materials[0].base_color_image.shape == (8, 8, 4)


def test_only_the_default_scene(gltf_maker, tmp_path):
    maker = gltf_maker()
    first = maker.show(maker.box_primitive())
    second = maker.show(maker.box_primitive(), translation=[9, 0, 0])
    maker.document["scenes"] = [{"nodes": [first]}, {"nodes": [second]}]
    maker.document["scene"] = 1
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    assert asset.mesh.vertices[:, 0].min() == 8.0
    assert len(asset.mesh.faces) == 12


def test_lines_are_skipped_and_told(gltf_maker, tmp_path):
    maker = gltf_maker()
    lines = {"attributes": {"POSITION": maker.accessor(np.eye(3))}, "mode": 1}
    maker.show(maker.box_primitive(), lines)
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    assert len(asset.mesh.faces) == 12
    assert any("lines" in note for note in asset.notes)


def test_gltf_json_survives_unknown_keys(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive(), extras={"a": [1, None]}, extensions={"ACME_x": {}})
    maker.document["extensionsUsed"] = ["ACME_x"]
    path = maker.write_gltf(tmp_path / "a.gltf")
    document = load_asset(path).document.document
    assert document == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("tex/my coat.png", "tex/my coat.png"),
        ("tex\\My%20Coat.PNG", "tex/my coat.png"),
        ("my%20coat.png", "my%20coat.png"),
        ("C:\\Users\\me\\coat.png", "coat.png"),
    ],
)
def test_uris_as_programs_really_write_them(gltf_maker, tmp_path, png, uri, name):
    (tmp_path / "in/tex").mkdir(parents=True)
    (tmp_path / "in" / name).write_bytes(png())
    maker = gltf_maker()
    material = maker.textured_material(maker.entry("images", {"uri": uri}))
    maker.show(maker.box_primitive(material=material))
    asset = load_asset(maker.write_gltf(tmp_path / "in/a.gltf"))
    assert asset.mesh.materials[0].base_color_image.shape == (8, 8, 4)
    assert tmp_path / "in" / name in source_files(asset)
    export_textured(asset, [np.zeros((8, 8, 3), np.uint8)], tmp_path / "b.glb", extras={})
    assert "uri" not in load_asset(tmp_path / "b.glb").document.document["images"][0]


def test_meshes_in_other_scenes_only_are_told(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive())
    maker.document["scenes"].insert(0, {"name": "empty"})
    with pytest.raises(InputError, match="none in scene 0; 1 mesh is in other scenes"):
        load_asset(maker.write_glb(tmp_path / "a.glb"))


def test_clamped_textures_with_wide_uvs_are_told(gltf_maker, tmp_path, box):
    maker = gltf_maker()
    material = maker.textured_material(maker.image())
    maker.document["textures"][0]["sampler"] = maker.entry("samplers", {"wrapS": 33071})
    primitive = maker.box_primitive(material=material)
    maker.show(primitive, name="inside")
    quiet = load_asset(maker.write_glb(tmp_path / "a.glb"))
    assert not quiet.notes
    primitive = dict(primitive, attributes={**primitive["attributes"]})
    primitive["attributes"]["TEXCOORD_0"] = maker.accessor(box.uvs * 3)
    maker.show(primitive, name="wide")
    told = load_asset(maker.write_glb(tmp_path / "b.glb"))
    assert len(told.notes) == 1
    assert "material 0" in told.notes[0]


def test_far_from_the_origin_is_told(gltf_maker, tmp_path):
    maker = gltf_maker()
    maker.show(maker.box_primitive(), translation=[3e4, 0, 0])
    assert any("far" in note for note in load_asset(maker.write_glb(tmp_path / "a.glb")).notes)
