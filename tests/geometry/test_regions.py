"""Plain materials as regions: what is not seen of one takes its own colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import InputError
from seqtex_geometry.asset import load_asset
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.fill import fill_smooth_surface
from seqtex_geometry.maps import uv_maps
from seqtex_geometry.mesh import Material
from seqtex_geometry.project import Projector, project_texture
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.regions import face_regions, fill_by_region, numbered_pairs
from seqtex_geometry.surface import SurfaceTensors
from seqtex_geometry.working_copy import normalize

BACKEND = choose_rasterizer("auto", torch.device("cpu"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_colours_stay_in_their_region(seed: int, count: int) -> None:
    """Each region has one colour; regions of which nothing is known take the nearest."""
    draw = torch.Generator().manual_seed(seed)
    position = torch.rand(60, 3, generator=draw)
    region = torch.randint(0, count, (60,), generator=draw) * 7 - 1
    known = torch.rand(60, generator=draw) < 0.3
    palette = torch.rand(count, 3, generator=draw)
    color = palette[(region + 1) // 7] * known[:, None]

    def fill(rows: torch.Tensor) -> torch.Tensor:
        return fill_smooth_surface(position[rows], color[rows], known[rows])

    made = fill_by_region(position, color, known, region, fill)
    for number in region.unique():
        rows = region == number
        if bool(known[rows].any()):
            assert torch.allclose(made[rows], palette[(number + 1) // 7], atol=1e-5)
        elif bool(known.any()):
            low, high = color[known].amin(0) - 1e-5, color[known].amax(0) + 1e-5
            assert bool(((made[rows] >= low) & (made[rows] <= high)).all())


def test_one_region_is_filled_as_without() -> None:
    draw = torch.Generator().manual_seed(0)
    position, color = torch.rand(40, 3, generator=draw), torch.rand(40, 3, generator=draw)
    known = torch.arange(40) % 3 == 0

    def fill(rows: torch.Tensor) -> torch.Tensor:
        return fill_smooth_surface(position[rows], color[rows], known[rows])

    region = torch.full((40,), 5)
    made = fill_by_region(position, color, known, region, fill)
    assert torch.equal(made, fill_smooth_surface(position, color, known))
    nothing = torch.zeros_like(known)
    assert torch.equal(fill_by_region(position, color, nothing, region, lambda rows: color), color)


def test_backs_of_two_materials_are_told_apart(gltf_maker, tmp_path, box) -> None:
    """A box of two materials, left red and right blue; only its front is shown."""
    maker = gltf_maker()
    parts = []
    for side in (-1, 1):
        part = maker.box_primitive(material=maker.entry("materials", {"name": str(side)}))
        part["attributes"]["POSITION"] = maker.accessor(
            box.vertices * [0.5, 1, 1] + [side / 2, 0, 0]
        )
        part["attributes"]["TEXCOORD_0"] = maker.accessor(box.uvs * [0.5, 1] + [0.25 + side / 4, 0])
        parts.append(part)
    maker.show(*parts)
    asset = load_asset(maker.write_glb(tmp_path / "a.glb"))
    assert asset.mesh.num_texture_sets == 1
    mesh, _ = normalize(asset.mesh, asset.axes)
    surface = SurfaceTensors.from_mesh(mesh)
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    maps = uv_maps(surface, height=64, width=64, rasterizer=BACKEND)
    picture = torch.zeros(3, 96, 96)
    picture[0, :, :48] = 1
    picture[2, :, 48:] = 1
    projector = Projector(surface, {"front": picture}, cameras, size=64, rasterizer=BACKEND)
    region = torch.from_numpy(face_regions(mesh))
    texture = projector.texture([maps], region).texture
    inside = maps.hit[0]
    is_left = region[maps.face_idx[0][inside]] == region[0]
    red, blue = texture[0][inside], texture[2][inside]
    front = maps.normal[0, ..., 1][inside] < -0.9
    assert (red - blue)[is_left & ~front].min() > 0.8  # pixels at the border mix
    assert (blue - red)[~is_left & ~front].min() > 0.8  # pixels at the border mix
    mixed = project_texture(surface, maps, {"front": picture}, cameras, rasterizer=BACKEND).texture
    assert (mixed[0] - mixed[2])[inside][is_left & ~front].min() < 0.5


def test_images_are_one_region(gltf_maker, tmp_path, png) -> None:
    maker = gltf_maker()
    images = [maker.textured_material(maker.image(png((9, 9, 9), size=size))) for size in (8, 4)]
    maker.show(*(maker.box_primitive(material=index) for index in images), maker.box_primitive())
    mesh = load_asset(maker.write_glb(tmp_path / "a.glb")).mesh
    assert face_regions(mesh)[::12].tolist() == [-1, 1, 2]
    error = InputError("a.png", expected="it", got="nothing")
    bad = replace(mesh, materials=(*mesh.materials[:2], Material(name="x", image_error=error)))
    assert face_regions(bad)[::12].tolist() == [-1, 1, -1]
    assert face_regions(bad).dtype == np.int64


def test_pairs_have_a_number_each() -> None:
    part = torch.tensor([2, 0, 2, 0, 1, 2])
    region = torch.tensor([5, -1, 5, 3, -1, 4])
    assert numbered_pairs(part, region).tolist() == [4, 0, 4, 1, 2, 3]
    assert numbered_pairs(part, torch.zeros_like(part)).tolist() == part.tolist()
