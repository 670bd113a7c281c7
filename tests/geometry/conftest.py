"""Small meshes and files that geometry tests are built from."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rasterizer_scenes import kaolin_rasterize

from seqtex_geometry.rasterize import RASTERIZERS, Rasterizer

_COMPONENTS = {"f4": 5126, "u4": 5125, "u2": 5123, "i2": 5122, "u1": 5121, "i1": 5120}
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Box:
    """A cube from -1 to 1 with 24 vertices, 12 faces, flat normals, and one chart per side."""

    vertices: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray  # glTF direction, v down
    faces: np.ndarray


def make_box() -> Box:
    vertices, normals, uvs, faces = [], [], [], []
    for side in range(6):
        axis, sign = side // 2, 1 - 2 * (side % 2)
        normal = np.zeros(3)
        normal[axis] = sign
        across, along = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3] * sign
        start = len(vertices)
        for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            vertices.append(normal + s * across + t * along)
            normals.append(normal)
            cell = np.array([side % 3, side // 3])
            uvs.append((cell + 0.05 + 0.45 * (np.array([s, t]) + 1)) / (3, 2))
        faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
    return Box(
        vertices=np.array(vertices, np.float32),
        normals=np.array(normals, np.float32),
        uvs=np.array(uvs, np.float32),
        faces=np.array(faces, np.int64),
    )


def png_bytes(color: tuple[int, ...] = (200, 60, 30), size: int = 8) -> bytes:
    """A picture with a gradient, so that it is not a plain colour."""
    pixels = np.full((size, size, len(color)), color, np.uint8)
    pixels[..., 0] = np.linspace(0, 255, size, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


@dataclass
class GltfMaker:
    """Builds a glTF document entry by entry."""

    document: dict[str, Any] = field(default_factory=lambda: {"asset": {"version": "2.0"}})
    blob: bytearray = field(default_factory=bytearray)

    def entry(self, kind: str, value: dict[str, Any]) -> int:
        self.document.setdefault(kind, []).append(value)
        return len(self.document[kind]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        self.blob += bytes(-len(self.blob) % 4)
        start = len(self.blob)
        self.blob += data
        place = {"buffer": 0, "byteOffset": start, "byteLength": len(data)}
        return self.entry("bufferViews", {**place, **more})

    def accessor(self, array: np.ndarray, dtype: str = "f4", **more: Any) -> int:
        rows = np.asarray(array)
        rows = rows.reshape(len(rows), -1).astype("<" + dtype)
        value = {
            "bufferView": self.view(rows.tobytes()),
            "componentType": _COMPONENTS[dtype],
            "count": len(rows),
            "type": _TYPES[rows.shape[1]],
        }
        return self.entry("accessors", {**value, **more})

    def image(self, data: bytes | None = None, **more: Any) -> int:
        view = self.view(png_bytes() if data is None else data)
        return self.entry("images", {"bufferView": view, "mimeType": "image/png", **more})

    def textured_material(self, image: int, **more: Any) -> int:
        texture = self.entry("textures", {"source": image})
        return self.entry(
            "materials", {"pbrMetallicRoughness": {"baseColorTexture": {"index": texture, **more}}}
        )

    def box_primitive(self, *, uvs: bool = True, normals: bool = True, **more: Any) -> dict:
        box = make_box()
        attributes = {"POSITION": self.accessor(box.vertices)}
        if normals:
            attributes["NORMAL"] = self.accessor(box.normals)
        if uvs:
            attributes["TEXCOORD_0"] = self.accessor(box.uvs)
        indices = self.accessor(box.faces.ravel(), "u2")
        return {"attributes": attributes, "indices": indices, **more}

    def show(self, *primitives: dict[str, Any], **node: Any) -> int:
        """A mesh with these primitives under a root node of the default scene."""
        mesh = self.entry("meshes", {"primitives": list(primitives)})
        index = self.entry("nodes", {"mesh": mesh, **node})
        self.document.setdefault("scenes", [{"nodes": []}])[0]["nodes"].append(index)
        self.document["scene"] = 0
        return index

    def finished(self, **buffer: Any) -> dict[str, Any]:
        document = json.loads(json.dumps(self.document))
        if self.blob:
            document["buffers"] = [{"byteLength": len(self.blob), **buffer}]
        return document

    def glb(self) -> bytes:
        text = json.dumps(self.finished()).encode()
        text += b" " * (-len(text) % 4)
        blob = bytes(self.blob) + bytes(-len(self.blob) % 4)
        body = struct.pack("<II", len(text), 0x4E4F534A) + text
        if blob:
            body += struct.pack("<II", len(blob), 0x004E4942) + blob
        return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body

    def write_glb(self, path: Path) -> Path:
        path.write_bytes(self.glb())
        return path

    def write_gltf(self, path: Path, *, buffer_uri: str | None = None) -> Path:
        """With an external buffer if ``buffer_uri`` is given, else a data URI."""
        from urllib.parse import unquote

        if buffer_uri is None:
            encoded = base64.b64encode(bytes(self.blob)).decode()
            uri = f"data:application/octet-stream;base64,{encoded}"
        else:
            uri = buffer_uri
            (path.parent / unquote(buffer_uri)).write_bytes(bytes(self.blob))
        path.write_text(json.dumps(self.finished(uri=uri)))
        return path


@pytest.fixture
def box() -> Box:
    return make_box()


@pytest.fixture
def gltf_maker() -> Callable[[], GltfMaker]:
    return GltfMaker


@pytest.fixture
def png() -> Callable[..., bytes]:
    return png_bytes


@pytest.fixture
def box_glb(tmp_path: Path) -> Path:
    """A textured box, one material with an image, written as GLB."""
    maker = GltfMaker()
    material = maker.textured_material(maker.image())
    maker.show(maker.box_primitive(material=material), name="box")
    return maker.write_glb(tmp_path / "box.glb")


@pytest.fixture
def box_obj(tmp_path: Path) -> Path:
    """A textured box of quads with CRLF line ends, spaces in names, an MTL and a PNG."""
    cube = make_box()
    lines = ["# box", "mtllib my box.mtl", "o Box One"]
    lines += [f"v {x:g} {y:g} {z:g}" for x, y, z in cube.vertices]
    lines += [f"vt {u:.6g} {1 - v:.6g}" for u, v in cube.uvs]
    lines += [f"vn {x:g} {y:g} {z:g}" for x, y, z in cube.normals]
    lines += ["usemtl Red Paint", "s off"]
    for side in range(6):
        corners = range(4 * side + 1, 4 * side + 5)
        lines.append("f " + " ".join(f"{i}/{i}/{i}" for i in corners))
    path = tmp_path / "box.obj"
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    (tmp_path / "my box.mtl").write_bytes(
        b"# paint\r\nnewmtl Red Paint\r\nNs 10\r\nKd 0.8 0.1 0.1\r\n"
        b"map_Kd -s 1 1 1 tex\\Paint Map.PNG\r\nmap_Bump bump.png\r\n"
    )
    (tmp_path / "tex").mkdir()
    (tmp_path / "tex" / "paint map.png").write_bytes(png_bytes())
    (tmp_path / "bump.png").write_bytes(png_bytes((90, 90, 90)))
    return path


@pytest.fixture
def rich_glb(gltf_maker, tmp_path, box):
    """Most of what a real file holds: skins, animation, samplers, transforms, several slots."""
    maker = gltf_maker()
    maker.entry("samplers", {"wrapS": 33648, "magFilter": 9728})
    first, rough = maker.image(name="coat"), maker.image(name="rough")
    coat = maker.entry("textures", {"source": first, "sampler": 0, "name": "coat"})
    other = maker.entry("textures", {"source": rough})
    material = maker.entry(
        "materials",
        {
            "name": "coat",
            "pbrMetallicRoughness": {
                "baseColorTexture": {
                    "index": coat,
                    "extensions": {"KHR_texture_transform": {"offset": [0.0, 0.25]}},
                },
                "baseColorFactor": [0.5, 1, 1, 0.75],
                "metallicRoughnessTexture": {"index": other},
            },
            "normalTexture": {"index": other, "texCoord": 1},
            "alphaMode": "BLEND",
            "extras": {"author": "me"},
        },
    )
    skinned = maker.box_primitive(material=material)
    skinned["attributes"]["TEXCOORD_1"] = maker.accessor(box.uvs[::-1])
    skinned["attributes"]["JOINTS_0"] = maker.accessor(np.zeros((24, 4)), "u1")
    skinned["attributes"]["WEIGHTS_0"] = maker.accessor(np.tile([1, 0, 0, 0], (24, 1)))
    skinned["attributes"]["TANGENT"] = maker.accessor(np.tile([1, 0, 0, 1], (24, 1)))
    skinned["attributes"]["_CUSTOM"] = maker.accessor(np.arange(24), "u2")
    skinned["targets"] = [{"POSITION": maker.accessor(np.ones((24, 3)) * 0.1)}]
    bare = maker.box_primitive(uvs=False, material=material)
    node = maker.show(skinned, bare, name="body")
    maker.document["meshes"][0] |= {"weights": [0.0], "extras": {"targetNames": ["puff"]}}
    joint = maker.entry("nodes", {"name": "bone", "extras": {"x": 1}})
    maker.document["scenes"][0]["nodes"].append(joint)
    maker.document["nodes"][node]["skin"] = maker.entry("skins", {"joints": [joint]})
    times = maker.accessor(np.array([0.0, 1.0]), min=[0.0], max=[1.0])
    moves = maker.accessor(np.array([[0, 0, 0], [0, 1, 0]]))
    maker.entry(
        "animations",
        {
            "channels": [{"sampler": 0, "target": {"node": joint, "path": "translation"}}],
            "samplers": [{"input": times, "output": moves}],
        },
    )
    maker.document["extensionsUsed"] = ["KHR_texture_transform"]
    maker.document["asset"] |= {"generator": "hand", "extras": {"keep": True}}
    return maker.write_glb(tmp_path / "rich.glb")


@pytest.fixture(params=("reference", "embree", "warp", "kaolin"))
def rasterizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rasterizer:
    """Every backend that runs here; Kaolin with a stand-in, held to the same suite."""
    backend = RASTERIZERS.get(request.param)
    if request.param == "kaolin":
        names = ("kaolin", "kaolin.render", "kaolin.render.mesh")
        modules = {name: types.ModuleType(name) for name in names}
        modules["kaolin.render.mesh"].rasterize = kaolin_rasterize
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return backend
    reason = backend.reason_unsupported(torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    return backend
