"""A new glTF document for a mesh that came from OBJ, PLY or STL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..asset import MeshAsset
from ..axes import Axes
from ..load.gltf_file import JsonObject
from ..load.parsed import lies_far_out
from ..mesh import FloatArray, ImageArray, IntArray, Mesh
from .gltf_builder import GltfBuilder
from .gltf_colors import SET_ASIDE_COLORS
from .gltf_split import flip_v, split_by_uv
from .textures import encode_png

_REPEAT = 10497


def new_gltf(
    asset: MeshAsset,
    textures: Sequence[ImageArray],
    extras: Mapping[str, Any],
    face_uvs: FloatArray | None,
) -> GltfBuilder:
    """A document with a node per part and a primitive per material, positions as in the file.

    Axes that are not glTF's are turned by the node, so that no position is rounded; it also moves
    a mesh that lies far from the origin, where glTF's single precision would blur it. Vertex
    colours would tint the texture; they are stored as ``_COLOR_0``.

    Args:
        asset: an OBJ, PLY or STL asset.
        textures: one per texture set.
        extras: for ``asset.extras.seqtex``.
        face_uvs: ``[T, 3, 2]``, v up: the author's or new ones; sets are then one.
    """
    mesh = asset.mesh
    uvs = face_uvs if face_uvs is not None else mesh.face_uvs
    assert uvs is not None
    sets = np.zeros_like(mesh.face_texture_set) if face_uvs is not None else mesh.face_texture_set
    builder = GltfBuilder({"asset": {"version": "2.0", "generator": "SeqTex"}})
    builder.set_extras(extras)
    builder.append("samplers", {"wrapS": _REPEAT, "wrapT": _REPEAT})
    for number, texture in enumerate(textures):
        image = builder.add_image(encode_png(texture), f"seqtex_basecolor_{number}")
        builder.append("textures", {"sampler": 0, "source": image})
    offset = _far_offset(mesh)
    local = replace(mesh, vertices=near_positions(mesh, offset))
    node: JsonObject = {"name": asset.path.stem}
    builder.append("nodes", node)
    parts = faces_by_part(asset)
    for name, rows in parts.items():
        primitives = [
            _add_primitive(builder, local, rows[some], uvs, int(sets[rows[some[0]]]))
            for some in primitive_faces(mesh.face_material[rows], sets[rows])
        ]
        label = name or asset.path.stem
        index = builder.append("meshes", {"name": label, "primitives": primitives})
        if len(parts) == 1:
            node |= {"name": label, "mesh": index}
        else:
            child = builder.append("nodes", {"name": label, "mesh": index})
            node.setdefault("children", []).append(child)
    to_gltf = np.eye(4)
    to_gltf[:3, :3] = Axes().rotation().T @ asset.axes.rotation()
    to_gltf[:3, 3] = to_gltf[:3, :3] @ offset
    if not np.array_equal(to_gltf, np.eye(4)):
        node["matrix"] = (to_gltf.T + 0.0).ravel().tolist()
    builder.document |= {"scenes": [{"nodes": [0]}], "scene": 0}
    return builder


def faces_by_part(asset: MeshAsset) -> dict[str, IntArray]:
    """The faces of each part of ``new_gltf``, by its name, in the order of their first faces."""
    names = [ref.part for ref in asset.primitives]
    numbers = {name: index for index, name in enumerate(dict.fromkeys(names))}
    part_of_ref = np.array([numbers[name] for name in names], np.int64)
    part = part_of_ref[asset.mesh.face_primitive]
    order = np.argsort(part, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(part, minlength=len(numbers)))
    split = np.split(order, ends[:-1])
    return {name: rows for name, rows in zip(numbers, split, strict=True) if len(rows)}


def near_positions(mesh: Mesh, offset: npt.NDArray[np.float64]) -> FloatArray:
    """Positions as a node at ``offset`` shows them, in single precision, ``[V, 3]``."""
    return (mesh.vertices - offset).astype(np.float32)


def _far_offset(mesh: Mesh) -> npt.NDArray[np.float64]:
    """Whole units from the origin to a mesh whose positions need double precision, else 0."""
    used = mesh.vertices[mesh.faces].reshape(-1, 3).astype(np.float64)
    middle = np.rint((used.min(axis=0) + used.max(axis=0)) / 2) + 0.0
    return np.where(lies_far_out(used), middle, 0.0)


def primitive_faces(face_material: IntArray, face_texture_set: IntArray) -> list[IntArray]:
    """The faces of each primitive of ``new_gltf``: by material, then by texture set."""
    keys = np.stack([face_material, face_texture_set], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    groups = [np.flatnonzero(inverse.reshape(-1) == key) for key in np.argsort(first)]
    return [group.astype(np.int64) for group in groups]


def _add_primitive(
    builder: GltfBuilder, mesh: Mesh, rows: IntArray, uvs: FloatArray, texture_set: int
) -> JsonObject:
    corner_vertices = mesh.faces[rows].ravel()
    corner_uvs = uvs[rows].reshape(-1, 2)
    has_uvs = texture_set >= 0
    keys = corner_uvs if has_uvs else np.zeros_like(corner_uvs)
    shown, corner = split_by_uv(corner_vertices, keys)
    vertex = corner_vertices[shown]
    positions = {"type": "VEC3", "needs_bounds": True}
    attributes = {
        "POSITION": builder.add_accessor(mesh.vertices[vertex].astype("<f4"), positions),
        "NORMAL": builder.add_accessor(mesh.vertex_normals[vertex].astype("<f4"), {"type": "VEC3"}),
    }
    if has_uvs:
        flipped = flip_v(corner_uvs[shown])
        attributes["TEXCOORD_0"] = builder.add_accessor(flipped, {"type": "VEC2"})
    if mesh.vertex_colors is not None:
        attributes[SET_ASIDE_COLORS if has_uvs else "COLOR_0"] = builder.add_accessor(
            mesh.vertex_colors[vertex].astype("<f4"), {"type": "VEC4"}
        )
    indices = corner.astype("<u2" if len(shown) < 65535 else "<u4")[:, None]
    return {
        "attributes": attributes,
        "indices": builder.add_accessor(indices, {"type": "SCALAR"}, use="index"),
        "material": _add_material(builder, mesh, int(mesh.face_material[rows[0]]), texture_set),
    }


def _add_material(builder: GltfBuilder, mesh: Mesh, material: int, texture_set: int) -> int:
    source = mesh.materials[material]
    pbr: JsonObject = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    *color, alpha = source.base_color_factor
    if texture_set >= 0:
        pbr["baseColorTexture"] = {"index": texture_set}
        color = [1.0, 1.0, 1.0]
    if [*color, alpha] != [1.0, 1.0, 1.0, 1.0]:
        pbr["baseColorFactor"] = [*color, alpha]
    entry = {"name": source.name, "pbrMetallicRoughness": pbr}
    if alpha < 1.0:
        entry["alphaMode"] = "BLEND"
    materials = builder.document.get("materials", [])
    return materials.index(entry) if entry in materials else builder.append("materials", entry)
