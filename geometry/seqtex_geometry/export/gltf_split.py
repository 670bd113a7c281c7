"""A glTF primitive rewritten for new UVs: same triangles, vertices split where charts meet."""

from __future__ import annotations

import numpy as np

from ..load.gltf import triangle_indices
from ..load.gltf_accessors import read_stored
from ..load.gltf_file import GltfFile, JsonObject
from ..load.parsed import PrimitiveRef
from ..mesh import FloatArray, IntArray
from .gltf_builder import GltfBuilder
from .gltf_colors import keep_opacity, names_set_aside, renamed


def split_by_uv(corner_vertices: IntArray, corner_uvs: FloatArray) -> tuple[IntArray, IntArray]:
    """One new vertex for every distinct pair of vertex and UV.

    Args:
        corner_vertices: old vertex of each corner, ``[C]``.
        corner_uvs: ``[C, 2]``.

    Returns:
        A corner that shows each new vertex, ``[N]``, and the new vertex of each corner, ``[C]``.
        New vertices are in the order in which corners first use them.
    """
    keys = np.empty((len(corner_vertices), 3), np.int64)
    keys[:, 0] = corner_vertices
    keys[:, 1:] = np.ascontiguousarray(corner_uvs, np.float32).view(np.int32)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.sort(first).astype(np.int64), rank[inverse.reshape(-1)].astype(np.int64)


def file_corner_uvs(ref: PrimitiveRef, face_uvs: FloatArray) -> FloatArray:
    """A primitive's UVs in the file's own corner order and direction (v down), ``[T, 3, 2]``."""
    uvs = face_uvs[ref.first_face : ref.first_face + ref.num_faces]
    if ref.is_flipped:
        uvs = uvs[:, [0, 2, 1]]
    return flip_v(uvs)


def flip_v(uvs: FloatArray) -> FloatArray:
    """UVs with v turned from up to down or back, ``[..., 2]``."""
    return np.stack([uvs[..., 0], np.float32(1.0) - uvs[..., 1]], axis=-1).astype(np.float32)


def rewrite_primitive(
    file: GltfFile,
    builder: GltfBuilder,
    ref: PrimitiveRef,
    new_uvs: FloatArray,
) -> bool:
    """Give a primitive new accessors: indices, every attribute and morph target, and TEXCOORD_0.

    The author's own UV sets move up by one, since simple viewers know set 0 only. Vertex colours
    that are not white would tint the texture; they are kept as ``_COLOR_0``.

    Args:
        file: the original.
        builder: receives the accessors; its copy of the primitive is changed.
        ref: which primitive.
        new_uvs: ``[T, 3, 2]`` over all faces of the asset's mesh, v up.

    Returns:
        Whether there were such colours.
    """
    if ref.num_faces == 0:
        return False
    old = file.document["meshes"][ref.mesh]["primitives"][ref.primitive]
    target = builder.document["meshes"][ref.mesh]["primitives"][ref.primitive]
    triangles = triangle_indices(file, old)
    uvs = file_corner_uvs(ref, new_uvs).reshape(-1, 2)
    shown, corner = split_by_uv(triangles.ravel(), uvs)
    rows = triangles.ravel()[shown]
    aside = names_set_aside(file, old)
    attributes: JsonObject = {}
    for name, accessor in renamed(old["attributes"], aside).items():
        attributes[_new_name(name)] = _gather(file, builder, accessor, rows)
    uv_like: JsonObject = {"type": "VEC2"}
    attributes["TEXCOORD_0"] = builder.add_accessor(uvs[shown], uv_like)
    target["attributes"] = attributes
    if aside:
        keep_opacity(file, builder, old, target, rows)
    dtype = np.dtype("<u2") if len(rows) < 65535 else np.dtype("<u4")
    indices = corner.astype(dtype)[:, None]
    target["indices"] = builder.add_accessor(indices, {"type": "SCALAR"}, use="index")
    target.pop("mode", None)
    if "targets" in old:
        target["targets"] = [
            {
                name: _gather(file, builder, accessor, rows)
                for name, accessor in renamed(item, aside).items()
            }
            for item in old["targets"]
        ]
    extensions = target.get("extensions", {})
    if extensions.pop("KHR_draco_mesh_compression", None) is not None and not extensions:
        del target["extensions"]
    return bool(aside)


def _new_name(name: str) -> str:
    if name.startswith("TEXCOORD_"):
        return f"TEXCOORD_{int(name.removeprefix('TEXCOORD_')) + 1}"
    return name


def _gather(file: GltfFile, builder: GltfBuilder, accessor: int, rows: IntArray) -> int:
    like = file.entry("accessors", accessor)
    return builder.add_accessor(read_stored(file, accessor)[rows], like)
