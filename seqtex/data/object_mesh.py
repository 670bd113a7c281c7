"""From a drawn shape to the mesh of an object: bent, posed, normalised, with normals and UVs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from seqtex_geometry.mesh import FloatArray, IntArray

from .charts import ChartStyle, draw_chart_style, unwrapped
from .shapes.curves import between, chance, random_rotation, rotation_about
from .shapes.families import draw_shape
from .shapes.normals import corner_normals
from .shapes.part import Array, Shape, joined


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectMesh:
    """A procedural mesh in the working frame: z up, centred, longest bounding-box edge 2.

    Args:
        vertices: ``[V, 3]``, split where normals or charts are.
        faces: ``[T, 3]``.
        vertex_normals: unit, hard edges included, ``[V, 3]``.
        face_uvs: ``[T, 3, 2]`` in [0, 1].
        face_part: material group of each face, ``[T]``.
        frame: world to object frame, ``[3, 4]``: the object's own upright, mirror-symmetric pose.
        symmetric: whether the object frame's plane x = 0 is a mirror of the shape.
        closed: whether every part claims to be closed.
        family: name of the shape family.
        chart_style: how the UVs were made.
    """

    vertices: FloatArray
    faces: IntArray
    vertex_normals: FloatArray
    face_uvs: FloatArray
    face_part: IntArray
    frame: FloatArray
    symmetric: bool
    closed: bool
    family: str
    chart_style: ChartStyle


def draw_object_mesh(rng: np.random.Generator, families: Sequence[str]) -> ObjectMesh:
    """A random object of the given shape families.

    Raises:
        UsageError: an unknown family.
    """
    shape = _deformed(rng, draw_shape(rng, families))
    rotation = _pose(rng)
    crease = np.concatenate([np.full(len(p.faces), p.crease) for p in shape.parts])
    labels = np.concatenate(
        [np.full(len(p.faces), k) for p, k in zip(shape.parts, shape.labels, strict=True)]
    )
    whole = joined(shape.parts, crease=180.0)
    turned = whole.vertices @ rotation.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale, center = 2.0 / float((high - low).max()), (low + high) / 2
    vertices = (turned - center) * scale
    style = draw_chart_style(rng, whole)
    face_uvs, kept = unwrapped(rng, replace(whole, vertices=vertices), style)
    faces = whole.faces[kept]
    normals = corner_normals(vertices, faces, crease[kept])
    split, split_faces, split_normals = _split(vertices, faces, normals)
    return ObjectMesh(
        vertices=split.astype(np.float32),
        faces=split_faces,
        vertex_normals=split_normals.astype(np.float32),
        face_uvs=face_uvs.astype(np.float32),
        face_part=labels[kept].astype(np.int64),
        frame=_object_frame(rotation, scale, center),
        symmetric=is_mirrored(whole.vertices),
        closed=all(part.closed for part in shape.parts),
        family=shape.family,
        chart_style=style,
    )


def _deformed(rng: np.random.Generator, shape: Shape) -> Shape:
    """The shape stretched along its axes, sometimes bent, twisted or tapered."""
    stretch = np.exp(rng.normal(0.0, 0.18, size=3))
    size = max(float(np.abs(part.vertices * stretch).max()) for part in shape.parts)
    style = int(rng.integers(10))
    amount = between(rng, -0.9, 0.9)

    def move(vertices: Array) -> Array:
        x, y, z = (vertices * stretch).T / size
        if style == 0:  # twist about z
            c, s = np.cos(amount * z), np.sin(amount * z)
            x, y = c * x - s * y, s * x + c * y
        elif style == 1:  # taper along z
            gain = 1 + 0.5 * amount * z
            x, y = x * gain, y * gain
        elif style == 2:  # bend backwards, which keeps the mirror plane
            y = y + 0.6 * amount * z * z
        elif style == 3:  # swell the middle
            gain = 1 + 0.4 * amount * np.cos(np.pi / 2 * np.clip(z, -1, 1))
            x, y = x * gain, y * gain
        return np.stack([x, y, z], axis=1)

    parts = tuple(replace(part, vertices=move(part.vertices)) for part in shape.parts)
    return replace(shape, parts=parts)


def _pose(rng: np.random.Generator) -> Array:
    """Upright facing the front, a quarter or any turn about z, leaning, or fully random."""
    style = rng.random()
    if style < 0.4:
        return np.eye(3)
    if style < 0.55:
        return rotation_about("z", np.pi / 2 * int(rng.integers(1, 4)))
    turn = rotation_about("z", between(rng, 0, 2 * np.pi))
    if style < 0.75:
        return turn
    if style < 0.85:
        lean = rotation_about("x", between(rng, -0.5, 0.5))
        return lean @ turn
    if chance(rng, 0.3):
        return turn @ rotation_about("x", np.pi / 2)
    return random_rotation(rng)


def _object_frame(rotation: Array, scale: float, center: Array) -> FloatArray:
    """World to object frame: ``R^T (x / scale + center)``, scaled back to the world's size."""
    matrix = np.concatenate([rotation.T, (rotation.T @ center * scale)[:, None]], axis=1)
    return matrix.astype(np.float32)


def _split(vertices: Array, faces: IntArray, normals: Array) -> tuple[Array, IntArray, Array]:
    """One vertex per distinct pair of position and normal."""
    flat = faces.ravel()
    rounded = np.round(normals.reshape(-1, 3) * 500).astype(np.int64)
    keys = ((flat * 1001 + rounded[:, 0] + 500) * 1001 + rounded[:, 1] + 500) * 1001
    keys = keys + rounded[:, 2] + 500
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    new_faces = inverse.reshape(-1, 3).astype(np.int64)
    return vertices[flat[first]], new_faces, normals.reshape(-1, 3)[first]


def is_mirrored(vertices: Array, tolerance: float = 0.02) -> bool:
    """Whether the mirror image in x = 0 of every vertex lies near another one.

    Args:
        vertices: ``[V, 3]``.
        tolerance: as a share of the longest edge of the bounding box.
    """
    reach = tolerance * float(np.ptp(vertices, axis=0).max())
    distance, _ = cKDTree(vertices).query(vertices * np.array([-1.0, 1.0, 1.0]))
    return bool(distance.max() <= reach)
