"""The node tree of a glTF scene: what is shown, where, and in which pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqtex_core.errors import InputError

from .gltf_accessors import read_floats
from .gltf_file import GltfFile, JsonObject

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshInstance:
    """A mesh shown by a node.

    Args:
        node: index of the node.
        mesh: index of the mesh.
        matrix: mesh to world, ``[4, 4]``, for column vectors.
        joints: joint matrices of the node's skin, ``[J, 4, 4]``; ``None`` if not skinned.
    """

    node: int
    mesh: int
    matrix: Matrix
    joints: Matrix | None = None


def mesh_instances(file: GltfFile) -> list[MeshInstance]:
    """What the default scene shows, in the order of the node tree (parents before children).

    Convention:
        A skinned mesh ignores its own node's place and follows its joints, as the standard says,
        in the pose that the nodes have without any animation.

    Raises:
        InputError: an index out of range, or a node with two parents or in a loop.
    """
    order = _visible_nodes(file)
    world = _world_matrices(file)
    instances = []
    for index in order:
        node = file.entry("nodes", index)
        if "mesh" not in node:
            continue
        file.entry("meshes", node["mesh"])
        joints = _joint_matrices(file, node["skin"], world) if "skin" in node else None
        for local in _gpu_instances(file, node):
            instances.append(
                MeshInstance(
                    node=index, mesh=node["mesh"], matrix=world[index] @ local, joints=joints
                )
            )
    return instances


def default_scene_roots(file: GltfFile) -> list[int]:
    """Root nodes of the scene that a viewer opens; of the whole file if it has no scenes."""
    if file.document.get("scenes"):
        scene = file.entry("scenes", file.document.get("scene", 0))
        return list(scene.get("nodes", []))
    nodes = file.document.get("nodes", [])
    children = {child for node in nodes for child in node.get("children", [])}
    return [index for index in range(len(nodes)) if index not in children]


def _visible_nodes(file: GltfFile) -> list[int]:
    order: list[int] = []
    seen: set[int] = set()
    stack = list(reversed(default_scene_roots(file)))
    while stack:
        index = stack.pop()
        node = file.entry("nodes", index)
        if index in seen:
            raise InputError(
                f"{file.path.name}: nodes[{index}]",
                expected="one parent per node and no loops",
                got="a node reached twice",
                remedy="Export the file again.",
            )
        seen.add(index)
        order.append(index)
        stack.extend(reversed(node.get("children", [])))
    return order


def _world_matrices(file: GltfFile) -> dict[int, Matrix]:
    nodes = file.document.get("nodes", [])
    children = {child for node in nodes for child in node.get("children", [])}
    stack = [(index, np.eye(4)) for index in range(len(nodes)) if index not in children]
    world: dict[int, Matrix] = {}
    while stack:
        index, parent = stack.pop()
        node = file.entry("nodes", index)
        if index in world:
            continue
        world[index] = parent @ local_matrix(node)
        stack.extend((child, world[index]) for child in node.get("children", []))
    return world


def local_matrix(node: JsonObject) -> Matrix:
    """A node's own transform, ``[4, 4]``: its matrix, or translation x rotation x scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    return _compose(
        np.array(node.get("translation", (0, 0, 0)), dtype=np.float64),
        np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64),
        np.array(node.get("scale", (1, 1, 1)), dtype=np.float64),
    )


def _compose(translation: Matrix, quaternion: Matrix, scale: Matrix) -> Matrix:
    length = float(np.linalg.norm(quaternion))
    x, y, z, w = quaternion / length if length > 0 else np.array([0.0, 0.0, 0.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= scale
    matrix[:3, 3] = translation
    return matrix


def _joint_matrices(file: GltfFile, skin_index: object, world: dict[int, Matrix]) -> Matrix:
    skin = file.entry("skins", skin_index)
    for joint in skin["joints"]:
        file.entry("nodes", joint)
    joints = np.stack([world[joint] for joint in skin["joints"]])
    if "inverseBindMatrices" in skin:
        inverse = read_floats(file, skin["inverseBindMatrices"]).astype(np.float64)
        joints = joints @ inverse[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
    return joints


def _gpu_instances(file: GltfFile, node: JsonObject) -> list[Matrix]:
    """Transforms of EXT_mesh_gpu_instancing; a single identity for an ordinary node."""
    extension = node.get("extensions", {}).get("EXT_mesh_gpu_instancing")
    if extension is None:
        return [np.eye(4)]
    columns = {
        name: read_floats(file, accessor).astype(np.float64)
        for name, accessor in extension["attributes"].items()
        if name in ("TRANSLATION", "ROTATION", "SCALE")
    }
    count = max((len(column) for column in columns.values()), default=1)
    move = columns.get("TRANSLATION", np.zeros((count, 3)))
    turn = columns.get("ROTATION", np.tile([0.0, 0.0, 0.0, 1.0], (count, 1)))
    size = columns.get("SCALE", np.ones((count, 3)))
    return [_compose(move[i], turn[i], size[i]) for i in range(count)]
