"""Write the demo mesh and its reference picture: ``python scripts/make_demo_mesh.py``.

``assets/demo/mesh.glb`` is an owl on a branch with UVs by xatlas and no texture;
``assets/demo/reference.png`` is its front view, coloured by a solid texture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from demo_colors import solid_color
from demo_owl import Part, build_owl
from PIL import Image

from seqtex_geometry import Material, Mesh, load_asset, normalize, smooth_normals, unwrap
from seqtex_geometry.export.gltf_builder import GltfBuilder
from seqtex_geometry.export.gltf_split import flip_v, split_by_uv

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "demo"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    parser.add_argument("--size", type=int, default=1024, help="reference picture, in pixels")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = build_owl()
    path = options.out / "mesh.glb"
    path.write_bytes(demo_glb(parts))
    picture = reference_picture(path, parts, options.size)
    Image.fromarray(picture).save(options.out / "reference.png", optimize=True)
    print(f"{path}: {sum(len(part.faces) for part in parts)} faces, {path.stat().st_size} bytes")


def demo_glb(parts: Sequence[Part]) -> bytes:
    """The owl as a GLB: a node per part under one root, one material, one UV square."""
    mesh = unwrap(_gltf_mesh(parts), resolution=512, padding=4)
    assert mesh.face_uvs is not None
    builder = GltfBuilder({"asset": {"version": "2.0", "generator": "SeqTex demo"}})
    plain = {"baseColorFactor": [0.8, 0.8, 0.8, 1.0], "metallicFactor": 0.0}
    builder.append("materials", {"name": "owl", "pbrMetallicRoughness": plain})
    builder.append("nodes", {"name": "owl", "children": []})
    for number, part in enumerate(parts):
        rows = np.flatnonzero(mesh.face_primitive == number)
        corner_vertices = mesh.faces[rows].ravel()
        shown, corner = split_by_uv(corner_vertices, mesh.face_uvs[rows].reshape(-1, 2))
        vertex = corner_vertices[shown]
        attributes = {
            "POSITION": builder.add_accessor(
                mesh.vertices[vertex], {"type": "VEC3", "needs_bounds": True}
            ),
            "NORMAL": builder.add_accessor(mesh.vertex_normals[vertex], {"type": "VEC3"}),
            "TEXCOORD_0": builder.add_accessor(
                flip_v(mesh.face_uvs[rows].reshape(-1, 2)[shown]), {"type": "VEC2"}
            ),
        }
        indices = builder.add_accessor(
            corner.astype("<u2")[:, None], {"type": "SCALAR"}, use="index"
        )
        primitive = {"attributes": attributes, "indices": indices, "material": 0}
        index = builder.append("meshes", {"name": part.name, "primitives": [primitive]})
        node = builder.append("nodes", {"name": part.name, "mesh": index})
        builder.document["nodes"][0]["children"].append(node)
    builder.document |= {"scenes": [{"nodes": [0]}], "scene": 0}
    return builder.pack_glb(ASSETS)


def _gltf_mesh(parts: Sequence[Part]) -> Mesh:
    """All parts as one mesh in glTF's axes."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    positions = np.concatenate([part.vertices for part in parts])
    vertices = (positions[:, [0, 2, 1]] * (1.0, 1.0, -1.0)).astype(np.float32)
    faces = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    # Parts touch but do not blend: each is smooth for itself.
    normals = [
        smooth_normals(vertices[start : start + len(part.vertices)], part.faces)
        for part, start in zip(parts, starts, strict=False)
    ]
    count = sum(map(len, faces))
    return Mesh(
        vertices=vertices,
        faces=np.concatenate(faces).astype(np.int64),
        vertex_normals=np.concatenate(normals),
        face_uvs=None,
        face_material=np.zeros(count, np.int64),
        materials=(Material(name="owl"),),
        face_primitive=np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts]),
        face_texture_set=np.full(count, -1, np.int64),
    )


def surface_colors(
    positions: npt.NDArray[np.float64], part: npt.NDArray[np.int64], parts: Sequence[Part]
) -> npt.NDArray[np.float64]:
    """Solid-texture colours of surface points, ``[N, 3]`` sRGB in [0, 1].

    Args:
        positions: in the owl's own frame, ``[N, 3]``.
        part: index of the part each point lies on, ``[N]``.
        parts: from ``build_owl``.
    """
    colors = np.zeros((len(positions), 3))
    for index in np.unique(part):
        rows = part == index
        colors[rows] = solid_color(positions[rows], parts[int(index)].kind)
    return colors


def reference_picture(
    path: Path, parts: Sequence[Part], size: int, *, view: str = "front", supersample: int = 3
) -> npt.NDArray[np.uint8]:
    """A view of the solid-textured owl with transparent background, ``[size, size, 4]``."""
    from seqtex_geometry import CameraRig, SurfaceTensors, choose_rasterizer, view_maps

    asset = load_asset(path)
    mesh, placed = normalize(asset.mesh, asset.axes)
    extent = np.ptp(mesh.vertices[np.unique(mesh.faces)], axis=0)
    camera = CameraRig.seqtex(diagonal=float(np.linalg.norm(extent))).select(view)
    fine = size * supersample
    maps = view_maps(
        SurfaceTensors.from_mesh(mesh),
        camera,
        height=fine,
        width=fine,
        rasterizer=choose_rasterizer("auto", "cpu"),
    )
    face = maps.face_idx[0].numpy()
    rows, columns = np.nonzero(face >= 0)
    # The owl's own frame is the working frame before centring and scaling.
    points = maps.position[0].numpy()[rows, columns].astype(np.float64) / placed.scale
    colors = surface_colors(points + placed.center, mesh.face_primitive[face[rows, columns]], parts)
    normals = maps.normal[0].numpy()[rows, columns]
    picture = np.zeros((fine, fine, 4))
    picture[rows, columns, :3] = colors * _soft_light(normals)[:, None]
    picture[rows, columns, 3] = 1.0
    return _shrunk(picture, supersample)


def _soft_light(normals: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Nearly flat light: a texture must not hold shadows, but a picture needs a little form."""
    return np.asarray(0.97 + 0.03 * normals[:, 2].astype(np.float64))


def _shrunk(picture: npt.NDArray[np.float64], factor: int) -> npt.NDArray[np.uint8]:
    size = picture.shape[0] // factor
    blocks = picture.reshape(size, factor, size, factor, 4).mean(axis=(1, 3))
    alpha = blocks[..., 3:]
    blocks[..., :3] = np.where(alpha > 0, blocks[..., :3] / np.maximum(alpha, 1e-6), 1.0)
    return np.rint(np.clip(blocks, 0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
