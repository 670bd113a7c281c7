# mypy: disable-error-code="untyped-decorator,valid-type,no-any-return,misc"
"""Warp kernels. Warp reads this file's source to compile them; imported only by ``warp.py``."""

import torch
import warp as wp

_FARTHEST = wp.constant(1.0e8)


@wp.kernel
def _first_faces(
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    face_idx: wp.array(dtype=wp.int32),
) -> None:
    ray = wp.tid()
    query = wp.mesh_query_ray(mesh, origins[ray], wp.normalize(directions[ray]), _FARTHEST)
    if query.result:
        face_idx[ray] = query.face
    else:
        face_idx[ray] = -1


def cast_rays(soup: torch.Tensor, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """First face on each ray, ``[N]`` int32, -1 for none.

    Args:
        soup: the corners of the faces one after the other, ``[3 T, 3]``, float32.
        origins: ``[N, 3]``, float32, on the same device.
        directions: ``[N, 3]``, float32, any length.
    """
    device = wp.device_from_torch(soup.device)
    triangles = torch.arange(soup.shape[0], dtype=torch.int32, device=soup.device)
    face_idx = torch.empty(origins.shape[0], dtype=torch.int32, device=soup.device)
    stream = None
    if soup.device.type == "cuda":
        stream = wp.stream_from_torch(torch.cuda.current_stream(soup.device))
    with wp.ScopedStream(stream):
        mesh = wp.Mesh(points=wp.from_torch(soup, dtype=wp.vec3), indices=wp.from_torch(triangles))
        wp.launch(
            _first_faces,
            dim=origins.shape[0],
            inputs=[
                mesh.id,
                wp.from_torch(origins, dtype=wp.vec3),
                wp.from_torch(directions, dtype=wp.vec3),
            ],
            outputs=[wp.from_torch(face_idx)],
            device=device,
        )
        if stream is not None:
            wp.synchronize_stream(stream)
    return face_idx
