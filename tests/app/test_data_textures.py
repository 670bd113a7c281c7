from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqtex.data.sample import ObjectSample, draw_texture
from seqtex.data.splits import HELD_OUT_FAMILIES, HELD_OUT_KINDS, split_families, split_kinds
from seqtex.data.synth import SynthSettings, is_usable, make_object, object_rng, uv_area
from seqtex.data.textures.brush import Brush
from seqtex.data.textures.kinds import paint_of_kind, texture_kinds
from seqtex.data.textures.lighting import draw_lighting, linear_to_srgb, shaded, srgb_to_linear
from seqtex.data.textures.noise import read_noise
from seqtex.data.textures.palettes import draw_palette, oklch_to_srgb
from seqtex.data.textures.points import SurfacePoints, edge
from seqtex.data.textures.solid import SolidTexture, draw_solid_texture
from seqtex_core.errors import UsageError
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import uv_maps, view_maps
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.surface import SurfaceTensors

SETTINGS = SynthSettings(seed=5)


@pytest.fixture(scope="module")
def made():
    return make_object(SETTINGS, 2)


@pytest.fixture(scope="module")
def sample(made):
    return ObjectSample(made.record, SETTINGS.sizes)


def _surface(mesh):
    return SurfaceTensors(
        vertices=torch.from_numpy(mesh.vertices),
        faces=torch.from_numpy(mesh.faces),
        vertex_normals=torch.from_numpy(mesh.vertex_normals),
        face_uvs=torch.from_numpy(mesh.face_uvs),
    )


def test_objects_are_functions_of_seed_and_number(made):
    again = make_object(SETTINGS, 2)
    for name, tensor in made.record.tensors().items():
        assert torch.equal(tensor, again.record.tensors()[name]), name
    other = make_object(SETTINGS, 3)
    assert other.mesh.vertices.shape != made.mesh.vertices.shape or not np.allclose(
        other.mesh.vertices, made.mesh.vertices
    )


def test_maps_equal_the_pipelines_own(made, sample):
    surface, rasterizer = _surface(made.mesh), choose_rasterizer("auto")
    rig = CameraRig.seqtex(diagonal=surface.diagonal)
    views = view_maps(surface, rig, height=64, width=64, rasterizer=rasterizer, supersample=2)
    texture = uv_maps(surface, height=128, width=128, rasterizer=rasterizer)
    maps = sample.maps()
    # Positions are rounded to steps of 1/32767, normals to steps of 1/127.
    position, normal = 0.51 / 32767, 0.51 / 127
    for mine, theirs, step in (
        (maps.view_position, views.position, position),
        (maps.view_normal, views.normal, normal),
        (maps.view_mask, views.mask[..., None], 1e-6),
        (maps.uv_position[None], texture.position, position),
        (maps.uv_normal[None], texture.normal, normal),
        (maps.uv_mask[None], texture.mask[..., None], 1e-6),
    ):
        assert (mine.permute(0, 2, 3, 1) - theirs).abs().max() <= step + 1e-6


def test_texels_have_the_colour_of_the_pixels_that_show_them(made, sample):
    def paint(points):
        return 0.5 + 0.45 * points.position

    images = sample.painted(SolidTexture(paint=paint, kinds=("linear",), mirrored=False))
    maps = sample.maps()
    surface = _surface(made.mesh)
    rig = CameraRig.seqtex(diagonal=surface.diagonal)
    whole = -torch.nn.functional.max_pool2d(-maps.view_mask, 3, 1, 1) > 0.999
    texels = maps.uv_mask[0] > 0
    points = maps.uv_position[:, texels].T
    pixels, _ = rig.project_to_pixels(points, 64, 64)
    compared = 0
    for view in range(4):
        column, row = pixels[view].long().clamp(0, 63).unbind(-1)
        toward = rig.centers()[view] / rig.centers()[view].norm()
        facing = (maps.uv_normal[:, texels].T @ toward).abs() > 0.5
        use = maps.uv_visible[view][texels] & whole[view, 0, row, column] & facing
        difference = images.uv[:, texels][:, use] - images.views[view][:, row[use], column[use]]
        # A pixel shows the surface up to half a pixel's diagonal beside the texel, stretched by
        # 1 / 0.5 where it is slanted; the colour changes by 0.45 per unit. Twice that for the
        # samples at creases, where the pixel mixes two planes.
        reach = 0.5 * 2**0.5 * surface.diagonal / 64 / 0.5
        assert difference.abs().quantile(0.98) <= 2 * 0.45 * reach
        assert difference.abs().median() <= 0.45 * reach
        compared += int(use.sum())
    assert compared > 500


def test_visible_texels_agree_with_exact_rays(made, sample):
    maps, surface = sample.maps(), _surface(made.mesh)
    assert not (maps.uv_visible & (maps.uv_mask == 0)).any()
    eyes = CameraRig.seqtex(diagonal=surface.diagonal).centers().double()
    row, column = torch.nonzero(maps.uv_mask[0] > 0)[::37].unbind(-1)
    points = maps.uv_position[:, row, column].T.double()
    normals = maps.uv_normal[:, row, column].T.double()
    wrong, missed, clear = 0, 0, 0
    for view in range(4):
        sight = points - eyes[view]
        nearest = _first_hit(eyes[view], sight, surface.corners().double())
        free = nearest > 1 - 0.02 / sight.norm(dim=-1)
        seen = maps.uv_visible[view, row, column]
        facing = (sight * normals).sum(-1).abs() / sight.norm(dim=-1)
        wrong += int((seen & ~free).sum())
        missed += int((free & ~seen & (facing > 0.25)).sum())
        clear += int((free & seen).sum())
    # Outlines are known to one sample of 128 only, and a texel beside one may be missed: a share of
    # a few hundredths. Hardly any is called visible that is not.
    assert clear > 200
    assert wrong <= 0.02 * clear
    assert missed <= 0.06 * clear


def _first_hit(origin, directions, corners):
    """Least ray parameter of a hit, ``[N]``, by Cramer's rule on every triangle."""
    a, b, c = corners.unbind(1)
    e, f = b - a, c - a
    side = torch.linalg.cross(directions[:, None].expand(-1, len(f), -1), f.expand(1, -1, -1))
    scale = (e * side).sum(-1)
    offset = origin - a
    u = (offset * side).sum(-1) / scale
    other = torch.linalg.cross(offset, e)
    v = (directions[:, None] * other).sum(-1) / scale
    t = (f * other).sum(-1) / scale
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return torch.where(hit, t, torch.inf).amin(1)


@pytest.mark.parametrize("kind", texture_kinds())
def test_kinds_give_colours_that_vary(kind, sample):
    spread = []
    for seed in range(3):
        rng = object_rng(seed, 9)
        brush = Brush(rng=rng, palette=draw_palette(rng), facts=sample.record.facts())
        color = paint_of_kind(kind, brush)(sample.points)
        assert color.shape == (len(sample.points), 3)
        assert torch.isfinite(color).all()
        assert color.min() > -0.5
        assert color.max() < 1.5
        spread.append(float(color.std(dim=0).max()))
    assert max(spread) > (0.0 if kind == "parts" else 0.01)


def test_textures_repeat_with_their_generator_only(sample):
    first, again, other = (
        draw_texture(sample, object_rng(1, k), kinds=split_kinds("train")) for k in (4, 4, 5)
    )
    assert torch.equal(first.views, again.views)
    assert torch.equal(first.uv, again.uv)
    assert not torch.allclose(first.uv, other.uv)
    assert first.kinds == again.kinds


def test_textures_are_images_with_black_background(sample):
    maps = sample.maps()
    for k in range(12):
        lit = k % 2 == 1
        images = draw_texture(sample, object_rng(2, k), kinds=split_kinds("all"), lit=lit)
        assert images.views.shape == (4, 3, 64, 64)
        assert images.uv.shape == (3, 128, 128)
        for image in (images.views, images.uv):
            assert torch.isfinite(image).all()
            assert image.min() >= 0
            assert image.max() <= 1 + 1e-5
        assert (images.uv * (maps.uv_mask == 0)).abs().max() == 0
        assert (images.views * (maps.view_mask == 0)).abs().max() == 0


def test_only_the_named_kinds_are_used(sample):
    kinds = ["stripes", "badges", "wood"]
    for k in range(10):
        texture = draw_solid_texture(object_rng(3, k), sample.record.facts(), kinds)
        assert set(texture.kinds) <= set(kinds)
        assert texture.kinds
    with pytest.raises(UsageError, match="stripe"):
        draw_solid_texture(object_rng(3), sample.record.facts(), ["stripe"])
    with pytest.raises(UsageError, match="at least one"):
        draw_solid_texture(object_rng(3), sample.record.facts(), [])


def test_mirrored_textures_do_not_tell_left_from_right(sample):
    points = sample.points
    flip = torch.tensor([-1.0, 1.0, 1.0])
    other = replace(points, position=points.position * flip, normal=points.normal * flip)
    mirrored = 0
    for k in range(40):
        facts = replace(sample.record.facts(), symmetric=True)
        texture = draw_solid_texture(object_rng(4, k), facts, ["stripes", "clouds", "cells"])
        same = torch.allclose(texture(points), texture(other), atol=1e-4)
        assert same or not texture.mirrored
        mirrored += texture.mirrored
    assert 12 <= mirrored <= 36  # 24 expected of 40, standard deviation 3.1


def test_splits_share_nothing():
    assert set(split_families("train")).isdisjoint(split_families("held-out"))
    assert set(split_kinds("train")).isdisjoint(split_kinds("held-out"))
    assert sorted(split_families("held-out")) == sorted(HELD_OUT_FAMILIES)
    assert sorted(split_kinds("held-out")) == sorted(HELD_OUT_KINDS)
    with pytest.raises(UsageError, match="lathe"):
        split_families("train", ["no such family"])


def test_drawn_objects_belong_to_their_families():
    settings = SynthSettings(seed=1, families=("lathe", "table"))
    assert {make_object(settings, k).mesh.family for k in range(5)} <= {"lathe", "table"}


def test_charts_of_objects_hardly_overlap():
    for index in range(6):
        made = make_object(SETTINGS, 20 + index)
        covered = len(made.record.uv_part) / SETTINGS.sizes.uv_size**2
        assert 0.1 < covered <= 1
        assert uv_area(made.mesh) < covered * 1.03 + 0.004


def test_objects_whose_charts_overlap_are_not_used(made):
    """Charts enlarged about the centre have more area than texels are covered."""
    covered = len(made.record.uv_part) / SETTINGS.sizes.uv_size**2
    uvs = made.mesh.face_uvs
    for share, usable in ((0.98, True), (1.08, False)):
        factor = (share * covered / uv_area(made.mesh)) ** 0.5
        mesh = replace(made.mesh, face_uvs=((uvs - 0.5) * factor + 0.5).astype(uvs.dtype))
        assert is_usable(mesh, made.record, SETTINGS.sizes) == usable


def test_noise_is_periodic_smooth_and_standard():
    where = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    values = read_noise(where)
    assert torch.allclose(values, read_noise(where + 3), atol=1e-3)
    # 4000 points of about 24^3 independent features: mean within 0.1, deviation within 0.15.
    assert values.mean(0).abs().max() < 0.1
    assert (values.std(0) - 1).abs().max() < 0.15
    step = read_noise(where + 1e-4) - values
    assert step.abs().max() < 0.05


def test_edges_blur_over_the_footprint():
    count = 5
    points = SurfacePoints(
        position=torch.zeros(count, 3),
        normal=torch.zeros(count, 3),
        part=torch.zeros(count, dtype=torch.int64),
        footprint=torch.full((count,), 0.2),
    )
    share = edge(torch.tensor([-0.2, -0.1, 0.0, 0.05, 0.1]), points)
    assert torch.allclose(share, torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0]))


def test_palette_colours():
    assert np.allclose(oklch_to_srgb(1.0, 0.0, 0.0), 1.0, atol=1e-3)
    assert np.allclose(oklch_to_srgb(0.0, 0.0, 0.0), 0.0, atol=1e-3)
    # sRGB red in OKLCH, by the definition of the space.
    red = oklch_to_srgb(0.62796, 0.25768, np.radians(29.234))
    assert np.allclose(red, [1, 0, 0], atol=0.01)
    for seed in range(20):
        palette = draw_palette(object_rng(seed))
        assert palette.shape == (5, 3)
        assert palette.min() >= 0
        assert palette.max() <= 1


def test_light_from_above_brightens_the_top():
    lighting = replace(
        draw_lighting(object_rng(0)), sky=(1.0, 1.0, 1.0), ground=(0.1, 0.1, 0.1), lamps=()
    )
    albedo = torch.full((2, 3), 0.5)
    eye = torch.tensor([[0.0, -1.0, 0.0]]).expand(2, 3)
    normal = torch.tensor([[0.0, -0.6, 0.8], [0.0, -0.6, -0.8]])
    top, bottom = shaded(albedo, normal, eye, lighting)
    assert (top > bottom).all()
    back = shaded(albedo, -normal, eye, lighting)  # a sheet seen from behind is lit as seen
    assert torch.allclose(back[0], top)
    values = torch.linspace(0, 1, 50)
    assert torch.allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-5)
