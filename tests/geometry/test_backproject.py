"""Painting from pictures: right colours, nothing through walls, nothing from the background."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from projected_shapes import sphere

from seqtex_core.errors import UsageError
from seqtex_geometry.backproject import BackProjection, backproject
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import SurfaceMaps, uv_map_layers, uv_maps, view_maps
from seqtex_geometry.picture_view import BackprojectSettings
from seqtex_geometry.project import (
    ProjectSettings,
    _completed,
    _Points,
    _stacked,
    project_texture,
)
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.surface import SurfaceTensors
from seqtex_geometry.symmetry import find_mirrors

BACKEND = choose_rasterizer("embree")
MAGENTA = torch.tensor([1.0, 0.0, 1.0])[:, None, None]


def walls() -> SurfaceTensors:
    """A small square (left half of the UVs) in front of a large one (right half)."""
    base = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    half = torch.tensor([0.5, 1.0])
    return SurfaceTensors(
        vertices=torch.cat([0.4 * base + torch.tensor([0, -0.5, 0]), base]),
        faces=torch.cat([faces, faces + 4]),
        vertex_normals=torch.tensor([[0.0, -1, 0]]).expand(8, 3),
        face_uvs=torch.cat([square[faces] * half, square[faces] * half + torch.tensor([0.5, 0])]),
    )


def pattern(position: torch.Tensor) -> torch.Tensor:
    """A smooth colour for every place, ``[..., 3]`` in [0.2, 0.8]."""
    return 0.5 + 0.3 * torch.sin(3.0 * position + torch.tensor([0.0, 1.0, 2.0]))


def pictures(surface: SurfaceTensors, cameras: CameraRig, size: int) -> list[torch.Tensor]:
    """What the cameras see of ``pattern``, on magenta, with hard alpha."""
    maps = view_maps(surface, cameras, height=size, width=size, rasterizer=BACKEND)
    colors = pattern(maps.position).permute(0, 3, 1, 2)
    mask = maps.mask[:, None]
    return list(torch.cat([colors * mask + MAGENTA * (1 - mask), mask], dim=1))


def texels(surface: SurfaceTensors, size: int = 96) -> SurfaceMaps:
    return uv_maps(surface, height=size, width=size, rasterizer=BACKEND)


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
@pytest.mark.parametrize("alpha", [1.0, 0.97, None])
def test_seen_texels_get_the_colour_of_their_place(projection: str, alpha: float | None) -> None:
    surface = sphere()
    cameras = CameraRig.orbit(
        azimuths=(-90.0, -30.0),
        elevations=(0.0, 20.0),
        distance=4.0,
        projection=projection,
        half_extent=0.33 if projection == "perspective" else 1.1,
    )
    maps = texels(surface)
    images = pictures(surface, cameras, 256)
    for image in images:
        image[3] *= alpha or 0.0
    images = [image[: 4 if alpha else 3] for image in images]
    result = backproject(surface, maps, images, cameras, rasterizer=BACKEND)
    truth = pattern(maps.position[0]).permute(2, 0, 1)
    error = (result.color - truth).abs()[:, result.seen]
    # a pixel spans 1/116 and up to 5 times that where slanted; the pattern's slope is 0.9
    assert error.max() < 5 * 0.9 / 116
    assert error.mean() < 0.002
    seen = result.seen & maps.hit[0]
    facing = (maps.position[0] * -cameras.forwards()[0]).sum(-1)
    assert seen[maps.hit[0] & (facing > 0.5)].all()
    assert not seen[maps.hit[0] & (facing < 0) & (maps.position[0][..., 0] < -0.5)].any()
    assert result.view_weights.shape == (2, 96, 96)


def test_what_is_hidden_is_not_painted() -> None:
    surface = walls()
    cameras = CameraRig.orbit(azimuths=(-90.0,), elevations=0.0, distance=4.0, half_extent=0.4)
    maps = texels(surface, 200)
    picture = torch.zeros(3, 256, 256)
    front = view_maps(surface, cameras, height=256, width=256, rasterizer=BACKEND)
    picture[0] = (front.face_idx[0] >= 2).float()  # the large wall is red
    picture[1] = ((front.face_idx[0] >= 0) & (front.face_idx[0] < 2)).float()  # the small green
    picture[2] = (front.face_idx[0] < 0).float()
    result = backproject(surface, maps, [picture], cameras, rasterizer=BACKEND)
    face_idx = maps.face_idx[0]
    for faces, color in (((0, 1), [0.0, 1.0, 0.0]), ((2, 3), [1.0, 0.0, 0.0])):
        chart = (face_idx == faces[0]) | (face_idx == faces[1])
        found = result.color[:, chart & result.seen]
        assert found.shape[1] > 5000
        wanted = torch.tensor(color)[:, None].expand_as(found)
        # bicubic lookups at the small square's corners reach around them, with tiny weights
        torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)
    position = maps.position[0]
    # the small wall hides 0.4 * 4 / 3.5 = 0.457 of the large one
    behind = (position[..., [0, 2]].abs().amax(-1) < 0.44) & (face_idx >= 2)
    assert behind.sum() > 500
    assert not result.seen[behind].any()
    beside = position[..., [0, 2]].abs().amax(-1)
    assert result.seen[(beside > 0.52) & (beside < 0.95) & (face_idx >= 2)].all()


def test_the_background_never_bleeds_in() -> None:
    surface = sphere()
    cameras = CameraRig.seqtex(diagonal=surface.diagonal).select("front", "left")
    size = 96
    maps = view_maps(surface, cameras, height=size, width=size, rasterizer=BACKEND, supersample=3)
    mask = maps.mask[:, None]
    white_on_magenta = mask + MAGENTA * (1 - mask)  # antialiased: outlines are mixed
    for images in (white_on_magenta, torch.cat([white_on_magenta, mask], 1)):
        result = backproject(surface, texels(surface), list(images), cameras, rasterizer=BACKEND)
        assert result.seen.float().mean() > 0.3
        assert result.color[:, result.seen].min() > 0.999


def test_transparent_pixels_are_not_used() -> None:
    surface = walls()
    cameras = CameraRig.orbit(azimuths=(-90.0,), elevations=0.0, distance=4.0, half_extent=0.4)
    picture = torch.ones(4, 64, 64)
    picture[:, :, :32] = 0
    maps = texels(surface)
    result = backproject(surface, maps, [picture], cameras, rasterizer=BACKEND)
    x = maps.position[0][..., 0]
    assert not result.seen[(x < 0) & maps.hit[0]].any()
    assert result.seen[(x > 0.55) & (x < 0.9) & maps.hit[0]].float().mean() > 0.8
    assert result.color[:, result.seen].min() > 0.999


def test_backs_of_thin_walls_are_not_painted_from_the_front() -> None:
    base = walls()
    thin = SurfaceTensors(
        vertices=torch.cat([base.vertices[4:], base.vertices[4:] + torch.tensor([0, 0.002, 0])]),
        faces=torch.cat([base.faces[:2], base.faces[:2].flip(1) + 4]),
        vertex_normals=base.vertex_normals,
        face_uvs=base.face_uvs,
    )
    cameras = CameraRig.orbit(azimuths=(-90.0,), elevations=0.0, distance=4.0, half_extent=0.4)
    maps = texels(thin)
    result = backproject(thin, maps, [torch.ones(3, 128, 128)], cameras, rasterizer=BACKEND)
    assert not result.seen[maps.face_idx[0] >= 2].any()
    assert result.seen[(maps.face_idx[0] >= 0) & (maps.face_idx[0] < 2)].float().mean() > 0.9


def test_the_view_that_faces_a_texel_counts_most() -> None:
    surface = sphere()
    cameras = CameraRig.orbit(azimuths=(-90.0, -30.0), elevations=0.0, distance=4.0)
    images = [torch.zeros(3, 128, 128), torch.ones(3, 128, 128)]
    maps = texels(surface)
    result = backproject(surface, maps, images, cameras, rasterizer=BACKEND)
    angle = torch.rad2deg(torch.atan2(maps.position[0][..., 1], maps.position[0][..., 0]))
    belt = maps.hit[0] & (maps.position[0][..., 2].abs() < 0.1)
    for low, high, least, most in ((-92, -88, 0, 0.1), (-61, -59, 0.4, 0.6), (-32, -28, 0.9, 1)):
        mean = result.color[0][belt & (angle > low) & (angle < high)].mean().item()
        assert least <= mean <= most


def test_project_texture_completes_the_sphere() -> None:
    surface = sphere()
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    maps = texels(surface)
    images = dict(zip(cameras.names, pictures(surface, cameras, 256), strict=True))
    front = {"front": images["front"]}
    truth = pattern(maps.position[0]).permute(2, 0, 1)
    settings = ProjectSettings(mirror="none")
    one = project_texture(surface, maps, front, cameras, rasterizer=BACKEND, settings=settings)
    four = project_texture(surface, maps, images, cameras, rasterizer=BACKEND, settings=settings)
    hit = maps.hit[0]
    assert one.mirrors == ()
    assert 0.3 < one.seen.sum() / hit.sum() < 0.5
    assert four.seen.sum() > 2 * one.seen.sum()
    assert (four.texture - truth).abs()[:, hit].mean() < 0.01
    # a picture of the front says little of the back, but its colours are in range everywhere
    assert one.texture.min() >= 0.15
    assert one.texture.max() <= 0.85


def test_fill_none_leaves_black_and_unseen_alone() -> None:
    surface = sphere()
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    maps = texels(surface, 64)
    result = project_texture(
        surface,
        maps,
        {"front": torch.ones(3, 64, 64)},
        cameras,
        rasterizer=BACKEND,
        settings=ProjectSettings(mirror="none", fill="none"),
    )
    back = maps.hit[0] & (maps.position[0][..., 1] > 0.3)
    assert result.texture[:, back].max() == 0


def test_mirror_planes_are_found_by_shape() -> None:
    assert find_mirrors(sphere((1.0, 0.6, 0.8))) == ("x", "y")
    lopsided = sphere()
    points = lopsided.vertices.clone()
    points[points[:, 1] > 0, 1] *= 0.5
    half = SurfaceTensors(
        vertices=points, faces=lopsided.faces, vertex_normals=lopsided.vertex_normals
    )
    assert find_mirrors(half) == ("x",)
    moved = SurfaceTensors(
        vertices=points + torch.tensor([0.3, 0, 0]),
        faces=lopsided.faces,
        vertex_normals=lopsided.vertex_normals,
    )
    assert find_mirrors(moved) == ()
    with_arm = trimesh.util.concatenate(
        [
            trimesh.creation.icosphere(subdivisions=3),
            trimesh.creation.icosphere(subdivisions=2, radius=0.3).apply_translation([1.2, 0, 0]),
        ]
    )  # a twelfth of the surface is on one side only
    arm = SurfaceTensors(
        vertices=torch.tensor(with_arm.vertices).float(),
        faces=torch.tensor(np.asarray(with_arm.faces)).long(),
        vertex_normals=torch.tensor(with_arm.vertex_normals).float(),
    )
    assert find_mirrors(arm) == ("y",)
    nothing = SurfaceTensors(
        vertices=points[:0], faces=lopsided.faces[:0], vertex_normals=points[:0]
    )
    assert find_mirrors(nothing) == ()


def test_mirrored_texels_copy_their_mirror_image() -> None:
    surface = sphere((1.0, 0.6, 0.8))
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    maps = texels(surface)
    picture = pictures(surface, cameras.select("front"), 256)[0]
    result = project_texture(surface, maps, {"front": picture}, cameras, rasterizer=BACKEND)
    assert result.mirrors == ("x", "y")
    position = maps.position[0]
    copied = result.mirrored & (position[..., 1] > 0.25) & (position[..., 2].abs() < 0.4)
    assert copied.sum() > 500
    expected = pattern(position * torch.tensor([1.0, -1.0, 1.0])).permute(2, 0, 1)
    error = (result.texture - expected).abs()[:, copied]
    # 96 texels across: a texel spans 0.02, the pattern's slope is 0.9; outlines blend into the fill
    assert error.mean() < 0.01
    assert error.quantile(0.95) < 0.03
    assert not (result.mirrored & result.seen).any()


def test_a_mirror_is_used_that_helps_one_of_several_pictures() -> None:
    """Mirrored across x = 0 the front shows nothing new; the left shows the right."""
    round_one = sphere()
    vertices = round_one.vertices.clone()
    vertices[:, 1] = torch.where(vertices[:, 1] > 0, 0.4, 1.0) * vertices[:, 1]  # flatter behind
    surface = replace(round_one, vertices=vertices)
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    maps = texels(surface)
    images = dict(zip(cameras.names, pictures(surface, cameras, 128), strict=True))
    given = {name: images[name] for name in ("front", "left")}
    result = project_texture(surface, maps, given, cameras, rasterizer=BACKEND)
    assert result.mirrors == ("x",)
    position = maps.position[0]
    right = maps.hit[0] & (position[..., 0] < -0.7) & (position[..., 1] < -0.1)
    assert right.sum() > 50
    assert (result.seen | result.mirrored)[right].all()


def test_colours_of_little_trust_stay_and_do_not_spread() -> None:
    """Three points in a row: one that is hardly seen, one that is not, one that is seen well."""
    points = _Points(
        position=torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [1.0, 0, 0]]),
        normal=torch.tensor([[0.0, 0, 1]]).expand(3, 3),
        part=torch.zeros(3, dtype=torch.int64),
        stain=torch.zeros(3, dtype=torch.bool),
    )
    color, trust = torch.eye(3), torch.tensor([0.3, 0.0, 0.9])
    made = _completed(points, color, trust, "nearest")
    torch.testing.assert_close(made, color[[0, 2, 2]])
    alone = _completed(points, color, torch.tensor([0.3, 0.0, 0.0]), "nearest")
    torch.testing.assert_close(alone, color[[0, 0, 0]])
    stain = points._replace(stain=torch.tensor([True, False, False]))
    both = _completed(stain, color, torch.tensor([0.9, 0.0, 0.9]), "nearest")
    torch.testing.assert_close(both, color[[0, 2, 2]])


def test_layers_lie_over_those_behind_them() -> None:
    def layer(value: float, weight: float) -> BackProjection:
        trust = torch.full((1, 1), weight)
        color = torch.full((3, 1, 1), value)
        return BackProjection(
            color=color, weight=trust, inside=color[0] / 2, view_weights=trust[None]
        )

    color, inside, trust = _stacked([layer(1.0, 0.6), layer(0.5, 0.5), layer(0.0, 0.25)])
    assert trust.item() == pytest.approx(0.6 + 0.4 * 0.5 + 0.2 * 0.25)
    assert color[0].item() == pytest.approx((0.6 + 0.5 * 0.2) / trust.item())
    assert inside.item() == pytest.approx(color[0].item() / 2)


def test_texels_of_overlapping_charts_are_seen_on_either_face() -> None:
    """Both halves of a sphere share texels; the picture shows the half that lost them."""
    surface = sphere()
    uvs = surface.face_uvs.clone()
    uvs[..., 0] = (1.0 - uvs[..., 0]).remainder(0.5)  # winds the back counter-clockwise: on top
    shared = SurfaceTensors(
        vertices=surface.vertices,
        faces=surface.faces,
        vertex_normals=surface.vertex_normals,
        face_uvs=uvs,
    )
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    layers = uv_map_layers(shared, height=96, width=96, rasterizer=BACKEND)
    assert len(layers) == 2
    reference = {"front": torch.ones(3, 128, 128)}
    settings = ProjectSettings(mirror="none")
    arguments = {"rasterizer": BACKEND, "settings": settings}
    top = project_texture(shared, layers[0], reference, cameras, **arguments)
    both = project_texture(shared, layers, reference, cameras, **arguments)
    assert top.seen.sum() < 0.1 * top.mask.sum()
    assert both.seen.sum() > 0.6 * both.mask.sum()


def test_bad_arguments() -> None:
    surface = walls()
    cameras = CameraRig.seqtex(diagonal=2.0)
    maps = texels(surface, 16)
    with pytest.raises(UsageError, match="4, one per camera"):
        backproject(surface, maps, [torch.ones(3, 8, 8)], cameras, rasterizer=BACKEND)
    with pytest.raises(UsageError, match="view 'front'"):
        backproject(surface, maps, [torch.ones(8, 8)] * 4, cameras, rasterizer=BACKEND)
    with pytest.raises(UsageError, match="at least one picture"):
        project_texture(surface, maps, {}, cameras, rasterizer=BACKEND)
    with pytest.raises(UsageError, match="front, left, back, right"):
        project_texture(surface, maps, {"top": torch.ones(3, 8, 8)}, cameras, rasterizer=BACKEND)
    with pytest.raises(UsageError, match="smooth, nearest or none"):
        ProjectSettings(fill="magic")  # type: ignore[arg-type]
    assert BackprojectSettings().min_facing < BackprojectSettings().full_facing
