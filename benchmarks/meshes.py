"""A mesh of any resolution with texture coordinates, made from a formula."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqtex_geometry.mesh import Material, Mesh
from seqtex_geometry.normals import smooth_normals

Floats = npt.NDArray[np.float32]


def bumpy_sphere(rings: int) -> Mesh:
    """A closed wavy ball of ``4 rings (rings - 1)`` faces, one chart, z up.

    Args:
        rings: bands from pole to pole; twice as many around.
    """
    vertices, faces, uvs = _grid(rings)
    return Mesh(
        vertices=vertices,
        faces=faces,
        vertex_normals=smooth_normals(vertices, faces),
        face_uvs=uvs,
        face_material=np.zeros(len(faces), dtype=np.int64),
        materials=(Material(name="plain"),),
        face_primitive=np.zeros(len(faces), dtype=np.int64),
        face_texture_set=np.zeros(len(faces), dtype=np.int64),
    )


def write_glb(path: Path, rings: int) -> None:
    """The same mesh as a file (glTF is y up)."""
    import trimesh
    from PIL import Image

    vertices, faces, uvs = _grid(rings)
    turned = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], axis=1)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(_checker(64)), metallicFactor=0.0
    )
    soup = trimesh.Trimesh(
        turned[faces].reshape(-1, 3),
        np.arange(faces.size).reshape(-1, 3),
        visual=trimesh.visual.TextureVisuals(uv=uvs.reshape(-1, 2), material=material),
        process=False,
    )
    soup.export(path)


def _grid(rings: int) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    around = 2 * rings
    polar, turn = np.meshgrid(
        np.linspace(0.0, math.pi, rings + 1), np.arange(around + 1) / around, indexing="ij"
    )
    azimuth = 2 * math.pi * (turn % 1.0)
    radius = 1.0 + 0.12 * np.sin(5 * azimuth) * np.sin(polar) ** 2 * np.cos(4 * polar)
    points = np.stack(
        [
            radius * np.sin(polar) * np.cos(azimuth),
            0.8 * radius * np.sin(polar) * np.sin(azimuth),
            radius * np.cos(polar),
        ],
        axis=-1,
    )
    uv = np.stack([0.02 + 0.96 * turn, 0.02 + 0.96 * (1 - polar / math.pi)], axis=-1)
    index = np.arange((rings + 1) * (around + 1)).reshape(rings + 1, around + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    upper = np.stack([a, b, c], axis=-1)[: rings - 1]  # the last ring has no second vertex row
    lower = np.stack([a, c, d], axis=-1)[1:]  # the first ring has no first one
    faces = np.concatenate([upper.reshape(-1, 3), lower.reshape(-1, 3)]).astype(np.int64)
    vertices = points.reshape(-1, 3).astype(np.float32)
    return vertices, faces, uv.reshape(-1, 2)[faces].astype(np.float32)


def _checker(size: int) -> npt.NDArray[np.uint8]:
    rows, columns = np.indices((size, size)) // 8
    light = ((rows + columns) % 2).astype(np.uint8)
    return np.stack([200 - 120 * light, 90 + 100 * light, 60 + 20 * light], axis=-1)
