"""Colours on the wrong side of an outline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from seqtex_geometry import project
from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import uv_maps, view_maps
from seqtex_geometry.rasterize import choose_rasterizer
from seqtex_geometry.stains import stained
from seqtex_geometry.surface import SurfaceTensors

RED, BLUE, GREEN, DARK_RED = [0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.1, 0.9, 0.1], [0.82, 0.1, 0.1]


def points() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twenty points of a red part and twenty of a blue one; the last four of each at outlines."""
    color = torch.tensor([RED] * 16 + [BLUE, GREEN, DARK_RED, RED] + [BLUE] * 16 + [RED] * 4)
    inside = torch.where(torch.arange(40) % 20 < 16, 0.05, 0.002)
    return color, torch.arange(40) // 20 * 3, torch.ones(40).bool(), inside


def test_the_colour_of_another_part_beside_an_outline_is_a_stain() -> None:
    """Not a colour that no part has, nor a shade of the part's own."""
    color, part, known, inside = points()
    assert stained(color, part, known, inside).nonzero()[:, 0].tolist() == [16, 36, 37, 38, 39]
    known[37] = False
    assert stained(color, part, known, inside).nonzero()[:, 0].tolist() == [16, 36, 38, 39]


def test_what_a_part_has_further_inside_is_its_own() -> None:
    color, part, known, inside = points()
    color[3] = torch.tensor(BLUE)
    assert stained(color, part, known, inside).nonzero()[:, 0].tolist() == [36, 37, 38, 39]


@pytest.mark.parametrize("deep", [0, 2])
def test_parts_that_are_nearly_all_outline_are_left_as_they_are(deep: int) -> None:
    """Of the red part less than a tenth is further inside: nobody knows its colours."""
    color, part, known, inside = points()
    color, part, known = color.repeat(2, 1), part.repeat(2), known.repeat(2)
    inside = torch.where(part == 0, 0.002, inside.repeat(2))
    inside[:deep] = 0.05
    found = stained(color, part, known, inside)
    assert not bool(found[part == 0].any())
    assert bool(found[part == 3].any()) == (deep > 0)


def test_one_part_or_nothing_known_has_no_stains() -> None:
    color, part, known, inside = points()
    assert not bool(stained(color, part * 0, known, inside).any())
    assert not bool(stained(color, part, ~known, inside).any())


def two_boxes() -> SurfaceTensors:
    """A box, and another nearer to -y that hides its right; every side has its own cell."""
    corners = torch.cartesian_prod(*3 * [torch.tensor([-0.5, 0.5])])
    sides = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    faces = torch.tensor([[q[0], q[1], q[2], q[0], q[2], q[3]] for q in sides]).reshape(-1, 3)
    cell = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]).reshape(-1, 3, 2)
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4))[:12, None, None]
    points = [corners - torch.tensor([0.4, 0.0, 0.0]), corners + torch.tensor([0.2, -1.0, 0.3])]
    return SurfaceTensors(
        vertices=torch.cat(points),
        faces=torch.cat([faces, faces + 8]),
        vertex_normals=torch.nn.functional.normalize(torch.cat([corners, corners]), dim=1),
        face_uvs=((places + 0.05 + 0.9 * cell) / 4).reshape(-1, 3, 2),
    )


@pytest.mark.parametrize("careful", [True, False])
def test_a_picture_that_is_off_by_six_pixels(
    careful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A red box and a blue one, drawn too far right; unseen sides are as the seen ones."""
    surface, rasterizer = two_boxes(), choose_rasterizer("embree")
    rig = CameraRig.seqtex(diagonal=surface.diagonal)
    front = view_maps(surface, rig.select("front"), height=1024, width=1024, rasterizer=rasterizer)
    palette, half = torch.tensor([RED, BLUE]), len(surface.faces) // 2
    box = (front.face_idx[0] >= half).long()
    near = distance_transform_edt(
        ~front.hit[0].numpy(), return_distances=False, return_indices=True
    )
    drawn = palette[box[tuple(np.asarray(near))].roll(6, dims=1)].permute(2, 0, 1)
    maps = uv_maps(surface, height=768, width=768, rasterizer=rasterizer)
    if not careful:
        monkeypatch.setattr(project, "stained", lambda color, part, known, inside: known & ~known)
    made = project.project_texture(
        surface,
        maps,
        {"front": torch.cat([drawn, front.hit.float()])},
        rig,
        rasterizer=rasterizer,
        settings=project.ProjectSettings(mirror="none"),
    )
    truth = palette[(maps.face_idx[0] >= half).long()].permute(2, 0, 1)
    error = (made.texture - truth).abs().amax(0)[made.mask & ~made.seen]
    of_the_other = float((error > 0.5).float().mean())
    assert of_the_other == 0 if careful else of_the_other > 0.05
