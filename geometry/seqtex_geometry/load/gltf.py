"""glTF and GLB files as one triangle list in world space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from ..mesh import FloatArray, IntArray
from .gltf_accessors import AnyArray, read_floats, read_stored
from .gltf_file import GltfFile, JsonObject, read_gltf_file
from .gltf_materials import MaterialTable, apply_transform, read_materials
from .gltf_scene import MeshInstance, mesh_instances
from .gltf_wrap import unmirrored, wrap_modes
from .parsed import ParsedFile, PrimitiveRef, rounded_positions

_MODES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}
_TRIANGLE_MODES = (4, 5, 6)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """One primitive of one instance, in world space."""

    vertices: npt.NDArray[np.float64]
    normals: FloatArray
    faces: IntArray
    face_uvs: FloatArray
    material: int
    ref: PrimitiveRef
    colors: FloatArray | None


def read_gltf(path: Path) -> ParsedFile:
    """A glTF or GLB file.

    Raises:
        InputError: see ``read_gltf_file``; or an index, an accessor or an image is bad.
    """
    try:
        return _parse(read_gltf_file(path))
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(
            str(path),
            expected="a valid glTF document",
            got=f"{type(error).__name__}: {error}",
            remedy="Check it with the glTF validator, or export it again.",
        ) from error


def triangle_indices(file: GltfFile, primitive: JsonObject) -> IntArray:
    """Vertex indices of a primitive's triangles, strips and fans unrolled, ``[T, 3]``.

    Raises:
        InputError: an index past the primitive's vertices.
    """
    count = int(file.entry("accessors", primitive["attributes"]["POSITION"])["count"])
    if "indices" in primitive:
        order = read_stored(file, primitive["indices"])[:, 0].astype(np.int64)
    else:
        order = np.arange(count, dtype=np.int64)
    if len(order) and int(order.max()) >= count:
        raise InputError(
            f"{file.path.name}: accessors[{primitive['indices']}]",
            expected=f"vertex indices below {count}",
            got=str(int(order.max())),
            remedy="The file is damaged: export it again.",
        )
    mode = primitive.get("mode", 4)
    if mode == 4:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    number = np.arange(max(len(order) - 2, 0))
    if mode == 5:
        odd = number % 2
        return np.stack([order[number], order[number + 1 + odd], order[number + 2 - odd]], axis=1)
    return np.stack([order[number + 1], order[number + 2], order[np.zeros_like(number)]], axis=1)


def _parse(file: GltfFile) -> ParsedFile:
    notes: list[str] = []
    instances = mesh_instances(file)
    table = read_materials(file, _used_materials(file, instances))
    parts: list[_Part] = []
    seen: set[tuple[int, int]] = set()
    for instance in instances:
        for number, primitive in enumerate(file.entry("meshes", instance.mesh)["primitives"]):
            mode = primitive.get("mode", 4)
            name = _part_name(file, instance, number)
            if mode not in _TRIANGLE_MODES or "POSITION" not in primitive["attributes"]:
                notes.append(f"{name}: {_MODES.get(mode, 'no positions')}, not textured")
                continue
            part = _read_part(file, instance, primitive, table)
            is_instance = (instance.mesh, number) in seen
            seen.add((instance.mesh, number))
            ref = replace(part.ref, name=name, primitive=number, is_instance=is_instance)
            parts.append(replace(part, ref=ref))
    if not parts:
        _check_scenes(file, instances)
    notes.extend(_scene_notes(file, instances, parts))
    parts, wrap_notes = _unwrapped_repeats(file, parts, table)
    notes.extend(wrap_notes)
    return _assemble(file, parts, table, notes)


def _check_scenes(file: GltfFile, instances: list[MeshInstance]) -> None:
    """Refuse a file whose meshes are all in other scenes than the one that is shown.

    Raises:
        InputError: it is one.
    """
    count = len(file.document.get("meshes", []))
    if count and not instances:
        raise InputError(
            str(file.path),
            expected="a mesh in the scene that is shown",
            got=f"none in scene {file.document.get('scene', 0)}; "
            f"{count} {'mesh is' if count == 1 else 'meshes are'} in other scenes or in none",
            remedy="Export the scene that has the mesh, or make it the default (`scene`).",
        )


def _used_materials(file: GltfFile, instances: Iterable[MeshInstance]) -> set[int]:
    return {
        primitive.get("material", -1)
        for instance in instances
        for primitive in file.entry("meshes", instance.mesh)["primitives"]
        if primitive.get("mode", 4) in _TRIANGLE_MODES
    }


def _part_name(file: GltfFile, instance: MeshInstance, number: int) -> str:
    node, mesh = file.entry("nodes", instance.node), file.entry("meshes", instance.mesh)
    label = node.get("name") or mesh.get("name") or f"node {instance.node}"
    return f"{label}[{number}]" if len(mesh["primitives"]) > 1 else str(label)


def _read_part(
    file: GltfFile, instance: MeshInstance, primitive: JsonObject, table: MaterialTable
) -> _Part:
    attributes = primitive["attributes"]
    if "KHR_draco_mesh_compression" in primitive.get("extensions", {}) and "bufferView" not in (
        file.entry("accessors", attributes["POSITION"])
    ):
        raise InputError(
            str(file.path),
            expected="uncompressed geometry",
            got="Draco compression",
            remedy="Decompress it first, for example with `gltf-transform copy IN OUT`.",
        )
    material = primitive.get("material", len(table.materials) - 1)
    if "material" in primitive:
        file.entry("materials", material)
    faces = triangle_indices(file, primitive)
    slot = table.slots[material]
    uv_name = f"TEXCOORD_{slot.tex_coord}"
    if slot.texture is None and uv_name not in attributes:
        uv_name = "TEXCOORD_0"
    if uv_name in attributes:
        uvs = apply_transform(slot, read_floats(file, attributes[uv_name]))
        face_uvs = np.stack([uvs[faces][..., 0], 1.0 - uvs[faces][..., 1]], axis=-1)
    else:
        face_uvs = np.full((len(faces), 3, 2), np.nan, np.float32)
    vertices, normals, mirrored = _place(file, primitive, instance)
    if mirrored:
        faces, face_uvs = faces[:, [0, 2, 1]], face_uvs[:, [0, 2, 1]]
    ref = PrimitiveRef(
        name="",
        first_face=0,
        num_faces=len(faces),
        node=instance.node,
        mesh=instance.mesh,
        is_flipped=mirrored,
        has_uvs=uv_name in attributes,
    )
    return _Part(
        vertices=vertices,
        normals=normals,
        faces=faces,
        face_uvs=face_uvs.astype(np.float32),
        material=material,
        ref=ref,
        colors=_read_colors(file, attributes),
    )


def _place(
    file: GltfFile, primitive: JsonObject, instance: MeshInstance
) -> tuple[npt.NDArray[np.float64], FloatArray, bool]:
    """World positions, world normals (NaN if none), and whether the winding turns over."""
    attributes = primitive["attributes"]
    positions = _morphed(file, primitive, instance, "POSITION")
    matrices = _vertex_matrices(file, attributes, instance, len(positions))
    linear, offset = matrices[..., :3, :3], matrices[..., :3, 3]
    vertices = np.einsum("...ij,...j->...i", linear, positions) + offset
    mirrored = bool(np.median(np.linalg.det(linear)) < 0)
    if "NORMAL" not in attributes:
        return vertices, np.full(vertices.shape, np.nan, np.float32), mirrored
    normals = _morphed(file, primitive, instance, "NORMAL")
    cofactors = np.stack(
        [np.cross(linear[..., (i + 1) % 3, :], linear[..., (i + 2) % 3, :]) for i in range(3)],
        axis=-2,
    )
    turned = np.einsum("...ij,...j->...i", cofactors, normals) * (-1.0 if mirrored else 1.0)
    length = np.linalg.norm(turned, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(length > 0, turned / length, np.nan)
    return vertices, unit.astype(np.float32), mirrored


def _morphed(
    file: GltfFile, primitive: JsonObject, instance: MeshInstance, name: str
) -> npt.NDArray[np.float64]:
    values = read_floats(file, primitive["attributes"][name]).astype(np.float64)
    mesh, node = file.entry("meshes", instance.mesh), file.entry("nodes", instance.node)
    weights: list[float] = node.get("weights") or mesh.get("weights") or []
    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
        if weight and name in target:
            values = values + float(weight) * read_floats(file, target[name])
    return values


def _vertex_matrices(
    file: GltfFile, attributes: JsonObject, instance: MeshInstance, count: int
) -> npt.NDArray[np.float64]:
    """Mesh to world: ``[4, 4]``, or one per vertex, ``[V, 4, 4]``, for a skinned mesh."""
    if instance.joints is None or "JOINTS_0" not in attributes:
        return instance.matrix
    total = np.zeros((count, 4, 4))
    weight_sum = np.zeros((count, 1, 1))
    for number in range(8):
        if f"JOINTS_{number}" not in attributes or f"WEIGHTS_{number}" not in attributes:
            break
        joints: AnyArray = read_stored(file, attributes[f"JOINTS_{number}"]).astype(np.int64)
        weights = read_floats(file, attributes[f"WEIGHTS_{number}"]).astype(np.float64)
        if int(joints.max(initial=0)) >= len(instance.joints):
            raise InputError(
                f"{file.path.name}: JOINTS_{number}",
                expected=f"joints below {len(instance.joints)}",
                got=str(int(joints.max())),
            )
        for column in range(4):
            weight = weights[:, column, None, None]
            total += weight * instance.joints[joints[:, column]]
            weight_sum += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight_sum > 0, total / weight_sum, np.eye(4))


def _read_colors(file: GltfFile, attributes: JsonObject) -> FloatArray | None:
    if "COLOR_0" not in attributes:
        return None
    colors = read_floats(file, attributes["COLOR_0"])
    if colors.shape[1] == 3:
        colors = np.concatenate([colors, np.ones((len(colors), 1), np.float32)], axis=1)
    return np.clip(colors, 0.0, 1.0)


def _assemble(
    file: GltfFile, parts: list[_Part], table: MaterialTable, notes: list[str]
) -> ParsedFile:
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    first_faces = np.cumsum([0, *(len(part.faces) for part in parts)])
    colors = None
    if any(part.colors is not None for part in parts):
        colors = np.concatenate(
            [
                np.ones((len(part.vertices), 4), np.float32) if part.colors is None else part.colors
                for part in parts
            ]
        )
    refs = tuple(
        replace(part.ref, first_face=int(first))
        for part, first in zip(parts, first_faces, strict=False)
    )
    numbered = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    faces = np.concatenate([np.zeros((0, 3), np.int64), *numbered])
    positions = np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)])
    return ParsedFile(
        vertices=rounded_positions(positions, faces),
        faces=faces,
        vertex_normals=np.concatenate([np.zeros((0, 3), np.float32), *(p.normals for p in parts)]),
        face_uvs=np.concatenate([np.zeros((0, 3, 2), np.float32), *(p.face_uvs for p in parts)]),
        face_material=np.repeat(
            np.array([part.material for part in parts], np.int64),
            [len(part.faces) for part in parts],
        ),
        materials=table.materials,
        material_keys=table.keys,
        primitives=refs,
        vertex_colors=colors,
        source=file.source,
        resources=file.resources,
        document=file,
        notes=notes,
    )


def _unwrapped_repeats(
    file: GltfFile, parts: list[_Part], table: MaterialTable
) -> tuple[list[_Part], list[str]]:
    """The parts as mirroring textures show them, and a note on textures that do not repeat."""
    result, names = list(parts), []
    for material in sorted({part.material for part in parts}):
        rows = [index for index, part in enumerate(parts) if part.material == material]
        modes = wrap_modes(file, table.slots[material].texture)
        moved, left = unmirrored([parts[index].face_uvs for index in rows], modes)
        for index, face_uvs in zip(rows, moved, strict=True):
            result[index] = replace(parts[index], face_uvs=face_uvs)
        if any(left):
            names.append(table.materials[material].name)
    if not names:
        return result, []
    told = ", ".join(names[:8])
    return result, [
        f"UVs leave the unit square of textures that do not repeat: {told}; new ones repeat there"
    ]


def _scene_notes(file: GltfFile, instances: list[MeshInstance], parts: list[_Part]) -> list[str]:
    notes = []
    scenes = file.document.get("scenes", [])
    if len(scenes) > 1:
        notes.append(f"{len(scenes)} scenes: only scene {file.document.get('scene', 0)} is shown")
    skinned = sum(instance.joints is not None for instance in instances)
    if skinned:
        notes.append(f"{skinned} skinned meshes are taken in the pose of their nodes")
    mirrored = sum(part.ref.is_flipped for part in parts)
    if mirrored:
        notes.append(f"{mirrored} parts are mirrored by their node; their winding is turned")
    return notes
