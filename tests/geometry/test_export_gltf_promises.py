"""What an export promises, checked on the file: anything else that changed is noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from export_samples import EXTRAS, picture

from seqtex_core.errors import ContractError, UsageError
from seqtex_geometry import export_textured, load_asset, verify_unchanged


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nodes", 0, "name"), "else"),
        (("nodes", 0, "translation"), [0, 0, 1e-7]),
        (("accessors", 0, "max"), [9, 9, 9]),
        (("animations", 0, "samplers", 0, "interpolation"), "STEP"),
        (("materials", 0, "doubleSided"), True),
        (("materials", 0, "pbrMetallicRoughness", "baseColorFactor"), [1, 1, 1, 0.5]),
        (("materials", 0, "normalTexture", "texCoord"), 0),
        (("meshes", 0, "extras"), None),
        (("meshes", 0, "primitives", 0, "attributes", "NORMAL"), 0),
        (("skins", 0, "joints"), [0]),
        (("asset", "generator"), "other"),
        (("asset", "extras", "keep"), False),
        (("textures", 0, "sampler"), None),
        (("extensionsUsed",), []),
    ],
)
def test_any_other_change_is_noticed(rich_glb, tmp_path, path, value):
    asset = load_asset(rich_glb)
    out = export_textured(asset, [picture()], tmp_path / "o.gltf", extras=EXTRAS).path
    assert verify_unchanged(asset, out, textures=[picture()])
    document = json.loads(out.read_text())
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    out.write_text(json.dumps(document))
    with pytest.raises(ContractError):
        verify_unchanged(asset, out)


def test_changed_bytes_and_pixels_are_noticed(rich_glb, tmp_path):
    asset = load_asset(rich_glb)
    out = export_textured(asset, [picture()], tmp_path / "o.glb", extras={}).path
    with pytest.raises(ContractError, match="texture 0"):
        verify_unchanged(asset, out, textures=[picture(1)])
    data = bytearray(out.read_bytes())
    position = data.index(asset.document.buffers[0][:64]) + 5
    data[position] ^= 1
    out.write_bytes(bytes(data))
    with pytest.raises(ContractError):
        verify_unchanged(asset, out)


def test_a_broken_promise_leaves_nothing_behind(box_glb, tmp_path, monkeypatch):
    from seqtex_geometry.export import gltf_builder

    pack = gltf_builder.GltfBuilder.pack_glb

    def spoiled(self, path):
        self.document["nodes"][0]["name"] = "spoiled"
        return pack(self, path)

    monkeypatch.setattr(gltf_builder.GltfBuilder, "pack_glb", spoiled)
    with pytest.raises(ContractError, match="nodes"):
        export_textured(load_asset(box_glb), [picture()], tmp_path / "o.glb", extras={})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["box.glb"]


def test_what_cannot_be_written(box_glb, tmp_path):
    asset = load_asset(box_glb)
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir.glb").mkdir()
    (tmp_path / "link.glb").symlink_to(box_glb)
    for out in ("box.glb", "link.glb", "o.obj", "o", "dir.glb", "file/o.glb"):
        with pytest.raises(UsageError):
            export_textured(asset, [picture()], tmp_path / out, extras={})
    with pytest.raises(UsageError):
        export_textured(asset, [picture()], "/proc/none/o.glb", extras={})
    out = tmp_path / "o.glb"
    for textures in (
        [],
        [picture(), picture()],
        [picture().astype(np.float32)],
        [picture()[..., 0]],
    ):
        with pytest.raises(UsageError):
            export_textured(asset, textures, out, extras={})
    with pytest.raises(UsageError):
        export_textured(asset, [picture()], out, extras={"x": {1, 2}})
    assert not out.exists()
    export_textured(asset, [picture()], out, extras={})
    with pytest.raises(UsageError, match="exists"):
        export_textured(asset, [picture()], out, extras={}, overwrite=False)
    assert asset.path.read_bytes() == asset.source
