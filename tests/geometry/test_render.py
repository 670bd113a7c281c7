"""Textured renders: orientation, colours, materials, light, filtering; contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqtex_core.errors import UsageError
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.contact_sheet import contact_sheet, save_contact_sheet, to_image
from seqtex_geometry.interpolate import Fragments, view_fragments
from seqtex_geometry.mesh import Material, Mesh
from seqtex_geometry.paint import SurfacePaint
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.render import RenderStyle, render_textured, uv_footprint
from seqtex_geometry.sampling import (
    bicubic,
    bilinear,
    linear_to_srgb,
    mip_levels,
    sample_levels,
    sample_uv,
    srgb_to_linear,
)
from seqtex_geometry.surface import SurfaceTensors

QUAD = np.array([[0, 1, 2], [0, 2, 3]])


def wall_mesh(**more: object) -> Mesh:
    """Two upright squares facing -y: the left one is texture set 0, the right one stays."""
    left = np.array([[-2, 0, -1], [0, 0, -1], [0, 0, 1], [-2, 0, 1]], np.float32)
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)[QUAD]
    values: dict = {
        "vertices": np.concatenate([left, left + np.float32([2, 0, 0])]),
        "faces": np.concatenate([QUAD, QUAD + 4]),
        "vertex_normals": np.tile(np.float32([0, -1, 0]), (8, 1)),
        "face_uvs": np.concatenate([uvs, uvs]),
        "face_material": np.array([0, 0, 1, 1]),
        "materials": (Material(name="a"), Material(name="b", base_color_factor=(0.5, 0, 0, 1))),
        "face_primitive": np.array([0, 0, 1, 1]),
        "face_texture_set": np.array([0, 0, -1, -1]),
    }
    return Mesh(**{**values, **more})


def rig() -> CameraRig:
    return CameraRig.orbit(
        azimuths=(-90.0, 90.0),
        elevations=0.0,
        distance=4.0,
        projection="orthographic",
        half_extent=2.0,
        names=("front", "back"),
    )


def render(mesh: Mesh, textures: list | None, **style: object) -> torch.Tensor:
    return render_textured(
        mesh,
        textures,
        rig(),
        height=64,
        width=64,
        rasterizer=choose_rasterizer(),
        style=RenderStyle(**style),
    )


def four_colors(size: int = 64) -> torch.Tensor:
    """Red upper left, green upper right, blue lower left, white lower right."""
    half = size // 2
    texture = torch.zeros(3, size, size)
    texture[0, :half, :half] = 1
    texture[1, :half, half:] = 1
    texture[2, half:, :half] = 1
    texture[:, half:, half:] = 1
    return texture


def test_texture_is_neither_mirrored_nor_flipped() -> None:
    front, back = render(wall_mesh(), [four_colors()])
    assert front.shape == (4, 64, 64)

    def pixel(image: torch.Tensor, row: int, column: int) -> list:
        return [round(x, 3) for x in image[:, row, column].tolist()]

    assert pixel(front, 20, 8) == [1, 0, 0, 1]
    assert pixel(front, 20, 24) == [0, 1, 0, 1]
    assert pixel(front, 44, 8) == [0, 0, 1, 1]
    assert pixel(front, 44, 24) == [1, 1, 1, 1]
    assert pixel(front, 4, 8) == [0, 0, 0, 0]  # transparent above
    assert pixel(back, 20, 55) == [1, 0, 0, 1]  # seen from behind, left and right swap


def test_materials_are_shown_where_no_texture_is_given() -> None:
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., 1] = 200
    materials = (
        Material(name="a", base_color_image=image),
        Material(name="b", base_color_factor=(0.5, 0.0, 0.0, 1.0)),
    )
    mesh = wall_mesh(materials=materials)
    own = render(mesh, None)[0]
    torch.testing.assert_close(own[:3, 32, 16], torch.tensor([0, 200 / 255, 0]))  # alpha unused
    half = linear_to_srgb(torch.tensor(0.5)).item()  # factors are linear
    torch.testing.assert_close(own[:3, 32, 48], torch.tensor([half, 0, 0]))
    painted = render(mesh, [torch.full((3, 4, 4), 0.25)])[0]
    torch.testing.assert_close(painted[:3, 32, 16], torch.full((3,), 0.25))
    torch.testing.assert_close(painted[:3, 32, 48], torch.tensor([half, 0, 0]))


def test_vertex_colors_tint_materials_and_not_what_was_painted() -> None:
    mesh = wall_mesh(vertex_colors=np.tile(np.float32([0.2, 0.4, 0.6, 1]), (8, 1)))
    front = render(mesh, [torch.full((3, 4, 4), 0.25)])[0]
    torch.testing.assert_close(front[:3, 32, 16], torch.full((3,), 0.25))
    tinted = linear_to_srgb(torch.tensor([0.2 * 0.5, 0, 0]))  # by the factor, too
    torch.testing.assert_close(front[:3, 32, 48], tinted, atol=1e-5, rtol=0)


def test_colours_stay_at_soft_edges() -> None:
    """Alpha is straight: a pixel that is half covered has the colour of what covers it."""
    tilted = wall_mesh()
    turned = tilted.vertices @ np.float32([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    mesh = wall_mesh(vertices=turned, face_texture_set=np.zeros(4, np.int64))
    color, alpha = render(mesh, [torch.full((3, 4, 4), 0.25)])[0].split([3, 1])
    soft = ((alpha > 0.1) & (alpha < 0.9))[0]
    assert int(soft.sum()) > 50
    torch.testing.assert_close(color[:, soft], torch.full_like(color[:, soft], 0.25))


def test_a_texel_of_the_level_that_is_read_is_as_large_as_the_footprint() -> None:
    texture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    mesh = wall_mesh()
    surface = SurfaceTensors.from_mesh(mesh)
    face_idx = choose_rasterizer().face_idx_views(
        surface, rig().select("front"), height=16, width=16
    )
    fragments = view_fragments(face_idx, surface, rig().select("front"))
    rows = fragments.face < 2  # those that are painted
    for level in (0, 2, 3):
        footprint = torch.full_like(fragments.depth, (2**level / 64) ** 2)
        colors = SurfacePaint.of(mesh, [texture]).colors(surface, fragments, footprint)[rows]
        uvs = fragments.interpolate(surface.face_uvs)[rows]
        levels = torch.full((len(uvs),), float(level))
        wanted = sample_uv(mip_levels(texture), uvs, levels)
        torch.testing.assert_close(colors, wanted, atol=1e-5, rtol=0)


def test_faces_that_reach_behind_the_camera_have_no_footprint() -> None:
    """Their corners have no place in the picture; their textures are read at full size."""
    mesh = wall_mesh()
    surface = SurfaceTensors.from_mesh(mesh)
    above = CameraRig.orbit(azimuths=(0.0,), elevations=0.0, distance=1.5, target=(-1.0, -0.2, 0.0))
    shape = (1, 1, 4)
    fragments = Fragments(
        shape=shape,
        pixel=torch.arange(4),
        face=torch.arange(4),
        barycentrics=torch.full((4, 3), 1 / 3),
        depth=torch.ones(4),
    )
    _, depth = above.project(surface.vertices)
    behind = (depth[0][surface.faces] <= 0).any(-1)
    assert behind.tolist() == [False, False, True, True]
    found = uv_footprint(surface, fragments, above)
    assert ((found == 0) == behind).all()


def test_factor_multiplies_the_image_in_linear_light() -> None:
    image = np.full((4, 4, 4), 128, np.uint8)
    material = Material(name="a", base_color_factor=(0.5, 1, 1, 1), base_color_image=image)
    front = render(wall_mesh(materials=(material, material)), None)[0]
    linear = srgb_to_linear(torch.tensor(128 / 255)) * torch.tensor([0.5, 1, 1])
    torch.testing.assert_close(front[:3, 32, 16], linear_to_srgb(linear), atol=1e-5, rtol=0)


def test_vertex_colors_and_faces_without_uvs() -> None:
    colors = np.tile(np.float32([0.2, 0.4, 0.6, 1]), (8, 1))
    mesh = wall_mesh(
        vertex_colors=colors, face_uvs=None, face_texture_set=np.full(4, -1), materials=()
    )
    front = render(mesh, None)[0]
    expected = linear_to_srgb(torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(front[:3, 32, 16], expected, atol=1e-5, rtol=0)


def test_background_and_silhouette() -> None:
    clear = render(wall_mesh(), [torch.ones(3, 4, 4)], supersample=2)[0]
    solid = render(wall_mesh(), [torch.ones(3, 4, 4)], supersample=2, background=(0.2, 0, 0))[0]
    assert (solid[3] == 1).all()
    composed = clear[:3] * clear[3:] + (1 - clear[3:]) * torch.tensor([0.2, 0, 0])[:, None, None]
    torch.testing.assert_close(solid[:3], composed)
    torch.testing.assert_close(solid[:3, 0, 0], torch.tensor([0.2, 0, 0]))


def test_shading_darkens_slanted_faces_and_lights_both_sides() -> None:
    mesh = wall_mesh(face_texture_set=np.zeros(4, np.int64))
    white = [torch.ones(3, 4, 4)]
    front, back = render(mesh, white, shading="shaded")[:, 0, 32, 32]
    assert 0.6 < front < 1.0
    assert back == pytest.approx(front.item(), abs=1e-5)
    slanted = CameraRig.orbit(
        azimuths=(-20.0,), elevations=0.0, distance=4.0, projection="orthographic", half_extent=2.0
    )
    side = render_textured(
        mesh,
        white,
        slanted,
        height=64,
        width=64,
        rasterizer=choose_rasterizer(),
        style=RenderStyle(shading="shaded"),
    )[0, 0, 32, 32]
    assert side < front - 0.05


def test_minified_textures_are_filtered_not_aliased() -> None:
    """A checkerboard far finer than pixels renders as its mean."""
    board = (torch.arange(512)[:, None] + torch.arange(512)).remainder(2).float().expand(3, -1, -1)
    front = render(wall_mesh(), [board], supersample=1)[0]
    inner = front[0, 20:44, 4:28]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.01, rtol=0)


def test_render_is_differentiable_in_the_texture() -> None:
    texture = torch.rand(3, 8, 8, requires_grad=True)
    render(wall_mesh(), [texture])[0, :3].sum().backward()
    assert (texture.grad > 0).all()


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="1, one per set"):
        render(wall_mesh(), [])
    with pytest.raises(UsageError, match=r"\[3, h, w\]"):
        render(wall_mesh(), [torch.ones(4, 4)])
    with pytest.raises(UsageError, match="unlit or shaded"):
        RenderStyle(shading="toon")  # type: ignore[arg-type]


# --- sampling ------------------------------------------------------------------------------------


def test_lookups_hit_pixel_centres_exactly_and_lines_between() -> None:
    image = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    centres = torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5
    for lookup in (bilinear, bicubic):
        torch.testing.assert_close(lookup(image, centres).T.reshape(2, 5, 7), image)
    ramp = torch.arange(9.0).expand(1, 9, 9)
    points = torch.tensor([[3.3, 4.0], [4.9, 2.2]])
    for lookup in (bilinear, bicubic):
        torch.testing.assert_close(lookup(ramp, points)[:, 0], points[:, 0] - 0.5)


def test_borders_repeat_or_clamp() -> None:
    image = torch.tensor([[[0.0, 1.0]]])
    assert bilinear(image, torch.tensor([[0.0, 0.5]]), wrap="repeat").item() == 0.5
    assert bilinear(image, torch.tensor([[0.0, 0.5]]), wrap="clamp").item() == 0.0
    uvs = torch.tensor([[0.25, 0.5], [1.25, -3.5], [-0.75, 9.5]])
    assert sample_uv([image], uvs).flatten().tolist() == [0.0, 0.0, 0.0]


def test_mip_levels_average_and_blend() -> None:
    image = torch.rand(1, 8, 8)
    levels = mip_levels(image)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    point = torch.tensor([[4.0, 4.0]] * 3)
    at = sample_levels(levels, point, torch.tensor([0.0, 3.0, 2.5]))[:, 0]
    beyond = sample_levels(levels, point[:2], torch.tensor([3.5, 40.0]))[:, 0]
    assert beyond.tolist() == [at[1].item()] * 2, "there is no coarser level"
    assert at[1].item() == pytest.approx(image.mean().item(), abs=1e-6)
    two = sample_levels(levels, point[:1], torch.tensor([2.0]))[0, 0]
    assert at[2].item() == pytest.approx((two.item() + at[1].item()) / 2, abs=1e-6)


def test_srgb_curve_matches_the_standard() -> None:
    # IEC 61966-2-1: 0.5 encodes 0.21404 of the light
    assert srgb_to_linear(torch.tensor(0.5)).item() == pytest.approx(0.2140411, abs=1e-6)
    values = torch.linspace(0, 1, 101)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6, rtol=0)


# --- contact sheets ------------------------------------------------------------------------------


def test_contact_sheet_holds_every_picture(tmp_path: Path) -> None:
    red = torch.zeros(2, 4, 40, 40)
    red[:, 0] = 1
    red[0, 3] = 1  # the second picture is transparent
    green = torch.zeros(3, 3, 20, 30)
    green[:, 1] = 1
    path = tmp_path / "sheet.png"
    save_contact_sheet(path, {"input": red, "ours": green}, ["front", "left", "back"])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels == [255, 0, 0]).all(-1).sum() == 40 * 40
    assert (pixels == [0, 255, 0]).all(-1).sum() == 3 * 20 * 30
    assert (pixels.sum(-1) < 300).any()  # labels
    with pytest.raises(UsageError, match="at least one row"):
        contact_sheet({})
    with pytest.raises(UsageError, match="row 'x'"):
        contact_sheet({"x": torch.zeros(3, 4, 4)})


def test_to_image_rounds_and_keeps_alpha() -> None:
    picture = torch.tensor([0.5, 1.5, -1.0, 0.5])[:, None, None].expand(4, 2, 2)
    assert to_image(picture).getpixel((0, 0)) == (128, 255, 0, 128)
    assert to_image(picture, (1.0, 1.0, 1.0)).getpixel((0, 0)) == (191, 255, 0)
