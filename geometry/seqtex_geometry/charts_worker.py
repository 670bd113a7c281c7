"""The child process that runs xatlas; started by file path, so it imports nothing of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main(folder: Path, resolution: int, padding: int) -> None:
    """Read ``vertices.npy`` and ``faces.npy`` from ``folder``, write the charts' UVs there.

    Vertices in the plane, ``[V, 2]``, are charts already, which are only packed.

    Writes ``uvs.npy``, ``[T, 3, 2]`` within one square, and ``charted.npy``, ``[T]`` bool: false
    for faces that xatlas ignored. Atlases that are not square keep their aspect.
    """
    import xatlas

    vertices = np.load(folder / "vertices.npy", allow_pickle=False)
    faces = np.load(folder / "faces.npy", allow_pickle=False)
    atlas = xatlas.Atlas()
    (atlas.add_mesh if vertices.shape[1] == 3 else atlas.add_uv_mesh)(vertices, faces)
    pack = xatlas.PackOptions()
    pack.resolution = resolution
    pack.padding = padding
    atlas.generate(pack_options=pack)
    source, indices, uvs = atlas.get_mesh(0)
    if atlas.atlas_count != 1 or not np.array_equal(source[indices], faces):
        raise SystemExit(f"xatlas made {atlas.atlas_count} atlases or reordered the faces")
    atlas_of_vertex, _ = atlas.get_mesh_vertex_assignment(0)
    size = np.array([atlas.width, atlas.height], dtype=np.float64)
    np.save(folder / "uvs.npy", (uvs[indices] * (size / size.max())).astype(np.float32))
    np.save(folder / "charted.npy", (atlas_of_vertex[indices] == 0).all(axis=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
