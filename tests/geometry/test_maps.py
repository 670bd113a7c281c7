"""Geometry maps: values, background, antialiasing, UV layout, overlaps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from seqtex_core.errors import InputError, UsageError
from seqtex_geometry.asset import load_asset
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.charts import unwrap
from seqtex_geometry.maps import (
    count_uv_overlaps,
    shared_uv_share,
    uv_map_layers,
    uv_maps,
    view_maps,
)
from seqtex_geometry.rasterize import RASTERIZERS, choose_rasterizer
from seqtex_geometry.surface import SurfaceTensors
from seqtex_geometry.working_copy import normalize


def sphere() -> SurfaceTensors:
    """Unit sphere; UVs are the front view's picture for y < 0, the back is elsewhere."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    corners = ball.vertices[ball.faces]
    return SurfaceTensors(
        vertices=torch.tensor(ball.vertices).float(),
        faces=torch.tensor(np.asarray(ball.faces)).long(),
        vertex_normals=torch.tensor(ball.vertices).float(),
        face_uvs=torch.tensor((corners[..., [0, 2]] + 1) / 2).float(),
    )


def rig(**more: object) -> CameraRig:
    return CameraRig.orbit(azimuths=(-90.0, 0.0), elevations=0.0, distance=4.0, **more)


def square(uvs: list, copies: int = 1) -> SurfaceTensors:
    """A square at x, z in [0, 1]; ``copies`` of it behind each other share the UVs."""
    base = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return SurfaceTensors(
        vertices=torch.cat([base + torch.tensor([0.0, i, 0]) for i in range(copies)]),
        faces=torch.cat([faces + 4 * i for i in range(copies)]),
        vertex_normals=torch.tensor([[0.0, -1, 0]]).expand(4 * copies, 3),
        face_uvs=torch.tensor(uvs).float()[faces].repeat(copies, 1, 1),
    )


def test_sphere_positions_normals_and_depth() -> None:
    surface, cameras = sphere(), rig()
    maps = view_maps(
        surface, cameras, height=64, width=64, rasterizer=choose_rasterizer(), unit_normals=True
    )
    hit = maps.hit
    assert maps.size == (64, 64)
    # the sphere's outline is a disc of radius tan(asin(1/4)) / 0.36 of the half picture
    share = np.pi / 4 * (np.tan(np.arcsin(0.25)) / 0.36) ** 2
    assert maps.mask.mean().item() == pytest.approx(share, rel=0.01)
    radius = maps.position[hit].norm(dim=-1)
    assert radius.max() <= 1.0 + 1e-5
    assert radius.min() > 0.995  # chords of an icosphere with 5120 faces
    torch.testing.assert_close(maps.normal[hit].norm(dim=-1), torch.ones(int(hit.sum())))
    cosine = (maps.normal[hit] * maps.position[hit]).sum(-1) / radius
    assert cosine.min() > 0.999
    middle = maps.depth[:, 31:33, 31:33]
    torch.testing.assert_close(middle, torch.full_like(middle, 3.0), atol=5e-3, rtol=0)
    for name in ("position", "normal", "mask", "depth", "barycentrics"):
        assert (getattr(maps, name)[~hit] == 0).all(), name


def test_view_axes() -> None:
    maps = view_maps(sphere(), rig(), height=32, width=32, rasterizer=choose_rasterizer())
    front, left = maps.position
    assert front[16, 20, 0] > 0.2  # +x is right in the front view
    assert front[10, 16, 2] > 0.2  # +z is up
    assert front[16, 16, 1] < -0.9  # and we see the side at -y
    assert left[16, 16, 0] > 0.9


def test_interpolated_normals_are_not_renormalised_by_default() -> None:
    surface = square([[0, 0], [1, 0], [1, 1], [0, 1]])
    normals = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [1, 0, 0], [-1, 0, 0]])
    bent = SurfaceTensors(
        vertices=surface.vertices,
        faces=surface.faces,
        vertex_normals=normals,
        face_uvs=surface.face_uvs,
    )
    maps = uv_maps(bent, height=4, width=4, rasterizer=choose_rasterizer())
    torch.testing.assert_close(maps.normal[0, 0, :, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    unit = uv_maps(bent, height=4, width=4, rasterizer=choose_rasterizer(), unit_normals=True)
    torch.testing.assert_close(unit.normal[0, 0, :, 0], torch.tensor([-1.0, -1, 1, 1]))


def test_supersampling_is_the_area_mean_with_background_zero() -> None:
    surface, cameras = sphere(), rig()
    backend = choose_rasterizer()
    fine = view_maps(surface, cameras, height=60, width=60, rasterizer=backend)
    plain = view_maps(surface, cameras, height=20, width=20, rasterizer=backend)
    smooth = view_maps(surface, cameras, height=20, width=20, rasterizer=backend, supersample=3)
    for name in ("position", "normal", "mask"):
        image = getattr(fine, name)
        mean = image.reshape(2, 20, 3, 20, 3, -1).mean((2, 4)).reshape(getattr(smooth, name).shape)
        torch.testing.assert_close(getattr(smooth, name), mean, atol=1e-6, rtol=1e-5)
    partly = (smooth.mask > 0) & (smooth.mask < 1)
    assert partly.sum() > 40
    for name in ("face_idx", "depth", "barycentrics"):
        assert torch.equal(getattr(smooth, name), getattr(plain, name)), name


def test_uv_map_has_v_up_and_is_not_antialiased() -> None:
    maps = uv_maps(
        square([[0, 0], [1, 0], [1, 1], [0, 1]]), height=4, width=8, rasterizer=choose_rasterizer()
    )
    assert maps.position.shape == (1, 4, 8, 3)
    torch.testing.assert_close(maps.position[0, 0, :, 2], torch.full((8,), 0.875))
    torch.testing.assert_close(maps.position[0, :, 0, 0], torch.full((4,), 0.0625))
    assert set(maps.mask.unique().tolist()) == {1.0}
    assert (maps.depth == 0).all()


def test_uv_map_and_view_map_tell_the_same_positions() -> None:
    """A sphere laid out as its own front view: texel and pixel of one place agree."""
    surface = sphere()
    cameras = CameraRig.orbit(
        azimuths=(-90.0,), elevations=0.0, distance=4.0, projection="orthographic", half_extent=1.0
    )
    front = surface.corners()[:, :, 1].mean(1) < 0
    texels = uv_maps(
        surface, height=64, width=64, rasterizer=RASTERIZERS.get("reference"), faces=front
    )
    pixels = view_maps(surface, cameras, height=64, width=64, rasterizer=choose_rasterizer())
    both = texels.hit & pixels.hit
    assert both.sum() > 3000
    # at the outline a pixel of 1/32 spans a face edge-on: leave the outermost ring out
    inner = both & (texels.position[..., [0, 2]].norm(dim=-1) < 0.95)
    torch.testing.assert_close(texels.position[inner], pixels.position[inner], atol=2e-4, rtol=0)


def test_uv_maps_repeat_outside_the_unit_square() -> None:
    uvs = [[0.5, 0], [1.5, 0], [1.5, 1], [0.5, 1]]  # straddles u = 1
    maps = uv_maps(square(uvs), height=4, width=8, rasterizer=choose_rasterizer())
    assert maps.hit.all()
    expected = (torch.arange(8) + 0.5) / 8 + torch.tensor([0.5] * 4 + [-0.5] * 4)
    torch.testing.assert_close(maps.position[0, 1, :, 0], expected)


def test_uv_maps_of_some_faces_and_of_faces_without_uvs() -> None:
    surface = square([[0, 0], [1, 0], [1, 1], [0, 1]])
    backend = choose_rasterizer()
    upper = uv_maps(
        surface, height=8, width=8, rasterizer=backend, faces=torch.tensor([False, True])
    )
    assert set(upper.face_idx.unique().tolist()) == {-1, 1}
    surface.face_uvs[0] = torch.nan
    rest = uv_maps(surface, height=8, width=8, rasterizer=backend)
    assert torch.equal(rest.face_idx[0, 1:, 0], upper.face_idx[0, 1:, 0])
    assert set(rest.face_idx.unique().tolist()) == {-1, 1}


def test_layers_show_faces_that_share_texels() -> None:
    backend = choose_rasterizer()
    uvs = [[0, 0], [1, 0], [1, 1], [0, 1]]
    size = {"height": 16, "width": 16, "rasterizer": backend}
    assert len(uv_map_layers(square(uvs), **size)) == 1
    layers = uv_map_layers(square(uvs, copies=3), **size)
    assert [layer.position[0, 3, 3, 1].item() for layer in layers] == [0.0, 1.0, 2.0]
    assert len(uv_map_layers(square(uvs, copies=3), **size, max_layers=2)) == 2
    first = torch.tensor([True, True, False, False])
    shared = uv_map_layers(square(uvs, copies=2), **size, faces=first, sharing=~first)
    assert [layer.position[0, 3, 3, 1].item() for layer in shared] == [0.0, 1.0]
    assert len(uv_map_layers(square(uvs, copies=2), **size, faces=first)) == 1


@pytest.mark.parametrize("folded", [False, True])
def test_one_half_of_a_mirrored_object_is_on_top_everywhere(folded: bool) -> None:
    """Whatever the order of its faces; ``folded``: the halves are one chart, folded over itself."""
    sheet = trimesh.creation.box(extents=(2, 2, 0.001)).subdivide().subdivide()
    corners = torch.tensor(sheet.vertices[sheet.faces]).float()
    corners = corners[(corners[..., 2] > 0).all(1)]
    corners = corners[torch.from_numpy(np.random.default_rng(1).permutation(len(corners)))]
    left = corners[..., 0].mean(1) < 0
    uvs = torch.stack([corners[..., 0].abs(), (corners[..., 1] + 1) / 2], -1)
    gap = torch.where(left & torch.tensor(not folded), 5.0, 0.0)
    surface = SurfaceTensors(
        vertices=(corners - gap[:, None, None] * torch.tensor([1.0, 0, 0])).reshape(-1, 3),
        faces=torch.arange(3 * len(corners)).reshape(-1, 3),
        vertex_normals=torch.tensor([[0.0, 0, 1]]).expand(3 * len(corners), 3),
        face_uvs=uvs,
    )
    layers = uv_map_layers(surface, height=32, width=32, rasterizer=choose_rasterizer())
    assert len(layers) == 2
    for layer, sign in zip(layers, (1, -1), strict=True):
        assert (layer.position[layer.hit][:, 0] * sign > 0).all()
        assert layer.hit.float().mean() > 0.95


def test_overlaps_are_counted_exactly() -> None:
    whole = square([[0, 0], [1, 0], [1, 1], [0, 1]])
    size = {"height": 8, "width": 8}
    assert count_uv_overlaps(whole, **size) == 0  # the diagonal runs through centres: no overlap
    twice = square([[0, 0], [1, 0], [1, 1], [0, 1]], copies=2)
    diagonal = 8  # centres on the shared diagonal lie inside neither triangle
    assert count_uv_overlaps(twice, **size) == 64 - diagonal
    half = square([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], copies=2)
    assert count_uv_overlaps(half, **size) == 32  # here the diagonal meets no centre
    first = torch.tensor([True, True, False, False])
    assert count_uv_overlaps(twice, **size, faces=first) == 0


@pytest.mark.parametrize(("repeats", "share"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_what_repeats_shares_its_texels_with_itself(repeats: int, share: float) -> None:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uvs = torch.tensor([[0.0, 0], [repeats, 0], [repeats, 1], [0, 1]])
    surface = SurfaceTensors(
        vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        faces=faces,
        vertex_normals=torch.tensor([[0.0, 0, 1]]).expand(4, 3),
        face_uvs=uvs[faces],
    )
    found = shared_uv_share(surface, size=64, rasterizer=choose_rasterizer("embree"))
    assert found == pytest.approx(share)


def test_maps_are_differentiable() -> None:
    surface = sphere()
    vertices = surface.vertices.clone().requires_grad_()
    moved = SurfaceTensors(
        vertices=vertices,
        faces=surface.faces,
        vertex_normals=surface.vertex_normals,
        face_uvs=surface.face_uvs,
    )
    maps = view_maps(
        moved, rig(), height=16, width=16, rasterizer=choose_rasterizer(), supersample=2
    )
    maps.position[0, ..., 1].sum().backward()
    assert torch.isfinite(vertices.grad).all()
    assert vertices.grad[:, 1].abs().sum() > 10


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda asset, surface: SurfaceTensors.from_mesh(asset),
            "mesh: .* Give its mesh, asset.mesh",
        ),
        (lambda asset, surface: normalize(asset), "mesh: .* Give its mesh, asset.mesh"),
        (lambda asset, surface: unwrap(asset), "mesh: .* Give its mesh, asset.mesh"),
        (lambda asset, surface: maps_of(asset.mesh), "surface: .*from_mesh"),
        (lambda asset, surface: maps_of(surface, cameras=torch.eye(4)), "cameras: .*CameraRig"),
        (lambda asset, surface: maps_of(surface, rasterizer="embree"), "rasterizer: .*'embree'"),
    ],
)
def test_arguments_of_another_kind_are_named(call: Callable[..., object], told: str) -> None:
    asset = load_asset(Path(__file__).parents[2] / "assets" / "demo" / "mesh.glb")
    with pytest.raises(UsageError, match=told):
        call(asset, square([[0, 0], [1, 0], [1, 1], [0, 1]]))


def maps_of(surface: Any, **changes: Any) -> object:
    given = {"cameras": rig(), "rasterizer": choose_rasterizer()} | changes
    return view_maps(surface, given.pop("cameras"), height=4, width=4, **given)


def test_bad_arguments() -> None:
    surface = square([[0, 0], [1, 0], [1, 1], [0, 1]])
    backend = choose_rasterizer()
    with pytest.raises(UsageError, match="positive height"):
        view_maps(surface, rig(), height=0, width=4, rasterizer=backend)
    with pytest.raises(UsageError, match=r"mask of shape \[2\]"):
        uv_maps(surface, height=4, width=4, rasterizer=backend, faces=torch.ones(3).bool())
    bare = SurfaceTensors(
        vertices=surface.vertices, faces=surface.faces, vertex_normals=surface.vertex_normals
    )
    with pytest.raises(UsageError, match="Unwrap"):
        uv_maps(bare, height=4, width=4, rasterizer=backend)
    with pytest.raises(InputError, match=r"indices from 0 to 9"):
        SurfaceTensors(
            vertices=surface.vertices,
            faces=torch.tensor([[0, 1, 9]]),
            vertex_normals=surface.vertex_normals,
        )
    with pytest.raises(UsageError, match=r"a Tensor, got numpy\.ndarray\. Use torch\.from_numpy"):
        SurfaceTensors(
            vertices=np.zeros((3, 3)),  # type: ignore[arg-type]
            faces=torch.zeros(1, 3).long(),
            vertex_normals=torch.zeros(3, 3),
        )
    with pytest.raises(UsageError, match="int64"):
        SurfaceTensors(
            vertices=surface.vertices,
            faces=surface.faces.int(),
            vertex_normals=surface.vertex_normals,
        )
