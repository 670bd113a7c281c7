"""Barycentrics, depth and attributes: perspective-correct and differentiable."""

from __future__ import annotations

import pytest
import torch

from seqtex_core.errors import UsageError
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.interpolate import (
    intersect_planes,
    triangle_areas,
    uv_fragments,
    view_fragments,
)
from seqtex_geometry.rasterize import RASTERIZERS
from seqtex_geometry.surface import SurfaceTensors

REFERENCE = RASTERIZERS.get("reference")


def slanted(dtype: torch.dtype = torch.float64) -> SurfaceTensors:
    """Two triangles that run away from the camera, so that perspective matters."""
    vertices = torch.tensor(
        [[-1.0, -1.5, -0.8], [1.1, -1.3, -0.7], [0.9, 4.0, 1.2], [-1.2, 3.0, 1.4]], dtype=dtype
    )
    return SurfaceTensors(
        vertices=vertices,
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        vertex_normals=torch.nn.functional.normalize(vertices, dim=-1),
    )


def rig(projection: str) -> CameraRig:
    return CameraRig.orbit(
        azimuths=(-90.0, -70.0),
        elevations=(5.0, 20.0),
        distance=4.0,
        projection=projection,
        half_extent=0.5 if projection == "perspective" else 2.0,
    )


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_position_lies_on_the_pixels_ray_at_its_depth(projection: str) -> None:
    surface, cameras = slanted(), rig(projection)
    face_idx = REFERENCE.face_idx_views(surface, cameras, height=17, width=23)
    fragments = view_fragments(face_idx, surface, cameras)
    assert len(fragments.pixel) > 100
    torch.testing.assert_close(
        fragments.barycentrics.sum(-1), torch.ones(len(fragments.pixel)).double()
    )
    position = fragments.interpolate(surface.vertices, surface.faces)
    origins, directions = (ray.reshape(-1, 3).double() for ray in cameras.rays(17, 23))
    expected = (origins + fragments.image(fragments.depth).reshape(-1, 1) * directions)[
        fragments.pixel
    ]
    # rays() is fp32 at positions of size 4: 5e-7 each, stretched by depths up to 9
    torch.testing.assert_close(position, expected, atol=1e-5, rtol=0)
    pixels, depth = cameras.project_to_pixels(position, 17, 23)
    frame = fragments.pixel // (17 * 23)
    torch.testing.assert_close(
        depth[frame, torch.arange(len(frame))], fragments.depth, atol=1e-6, rtol=0
    )
    column = pixels[frame, torch.arange(len(frame)), 0]
    torch.testing.assert_close(
        column, fragments.pixel % 23 + 0.5, atol=1e-5, rtol=0, check_dtype=False
    )


def test_screen_space_interpolation_would_be_wrong_here() -> None:
    """The middle of the edge 0-2 on the screen is not its middle in space."""
    surface, cameras = slanted(), rig("perspective").select("view0")
    pixels, depth = cameras.project(surface.vertices[[0, 2]])
    weights = depth[0].flip(0) / depth[0].sum()
    assert abs(weights[0].item() - 0.5) > 0.2
    middle = (surface.vertices[[0, 2]] * weights[:, None]).sum(0)
    torch.testing.assert_close(cameras.project(middle[None])[0][0, 0], pixels[0].mean(0))


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_gradients_of_vertices_and_attributes(projection: str) -> None:
    surface, cameras = slanted(), rig(projection)
    face_idx = REFERENCE.face_idx_views(surface, cameras, height=4, width=5)
    assert (face_idx >= 0).sum() > 8
    generator = torch.Generator().manual_seed(0)
    attributes = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    vertices = surface.vertices.clone().requires_grad_()

    def render(points: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        moved = SurfaceTensors(
            vertices=points, faces=surface.faces, vertex_normals=surface.vertex_normals
        )
        fragments = view_fragments(face_idx, moved, cameras)
        image = fragments.image(fragments.interpolate(values, surface.faces))
        return image, fragments.depth

    assert torch.autograd.gradcheck(render, (vertices, attributes), atol=1e-6)


def test_gradients_of_uvs() -> None:
    uvs = torch.tensor(
        [[[0.1, 0.1], [0.9, 0.2], [0.3, 0.95]]], dtype=torch.float64, requires_grad=True
    )
    values = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    face_idx = REFERENCE.face_idx_uv(uvs, height=6, width=5)
    assert (face_idx >= 0).sum() > 5

    def bake(points: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        return uv_fragments(face_idx, points).interpolate(attributes)

    assert torch.autograd.gradcheck(bake, (uvs, values), atol=1e-6)


def test_uv_interpolation_is_affine() -> None:
    uvs = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    face_idx = REFERENCE.face_idx_uv(uvs, height=8, width=16)
    fragments = uv_fragments(face_idx, uvs)
    image = fragments.image(fragments.interpolate(uvs))[0]
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(16), indexing="ij")
    torch.testing.assert_close(image[..., 0], (columns + 0.5) / 16)
    torch.testing.assert_close(image[..., 1], 1 - (rows + 0.5) / 8)


def test_a_pixel_beside_its_face_is_moved_onto_it() -> None:
    """Backends place edges to fp32; weights must not extrapolate, least of all on slivers."""
    corners = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0, 1e-6]]], dtype=torch.float64)
    origin = torch.tensor([[0.5, -1.0, 1e-5]], dtype=torch.float64)
    _, weights = intersect_planes(corners, origin, torch.tensor([[0.0, 1.0, 0.0]]).double())
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1.0)


def test_image_and_mask_put_values_where_they_belong() -> None:
    face_idx = torch.tensor([[[-1, 0], [1, -1]]])
    uvs = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]] * 2)
    fragments = uv_fragments(face_idx[0], uvs)
    assert fragments.mask().tolist() == [[[False, True], [True, False]]]
    image = fragments.image(fragments.face + 10, background=-1)
    assert image.tolist() == [[[-1, 10], [11, -1]]]


def test_triangle_areas() -> None:
    corners = torch.tensor([[[0.0, 0], [2, 0], [0, 3]], [[0, 0], [0, 3], [2, 0]]])
    assert triangle_areas(corners).tolist() == [3.0, 3.0]


def test_attributes_of_another_shape_are_refused() -> None:
    surface = slanted()
    face_idx = torch.zeros(2, 1, 1, dtype=torch.int64)
    fragments = view_fragments(face_idx, surface, rig("perspective"))
    with pytest.raises(UsageError, match="without faces"):
        fragments.interpolate(surface.vertices)
