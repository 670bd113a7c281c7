"""Colours for unseen texels, and padding that survives mip levels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqtex_core.errors import UsageError
from seqtex_geometry.fill import fill_nearest_surface, fill_smooth_surface
from seqtex_geometry.sampling import mip_levels
from seqtex_geometry.seams import extend_nearest, pad_seams

FILLS = [fill_nearest_surface, fill_smooth_surface]


def plane(count: int = 60) -> torch.Tensor:
    """Points on the unit square at z = 0, ``[count^2, 3]``."""
    axis = (torch.arange(count) + 0.5) / count
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)


@pytest.mark.parametrize("fill", FILLS)
def test_known_colours_stay_and_unknown_ones_are_between_them(fill) -> None:
    position = plane()
    color = torch.rand(len(position), 3, generator=torch.Generator().manual_seed(0))
    known = (position[:, 0] < 0.3) | (position[:, 1] > 0.8)
    color[~known] = torch.nan  # must not be read
    filled = fill(position, color, known)
    assert torch.equal(filled[known], color[known])
    assert torch.isfinite(filled).all()
    assert filled.min() >= color[known].min()
    assert filled.max() <= color[known].max()


@pytest.mark.parametrize("fill", FILLS)
def test_one_colour_stays_one_colour(fill) -> None:
    position = plane(30)
    color = torch.tensor([0.2, 0.5, 0.9]).expand(len(position), 3)
    known = torch.zeros(len(position), dtype=torch.bool)
    known[7] = True
    # iterative solver: relative tolerance 1e-4
    torch.testing.assert_close(fill(position, color, known), color, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_known_and_all_known(fill) -> None:
    position, color = plane(5), torch.rand(25, 3)
    for value in (True, False):
        known = torch.full((25,), value)
        assert torch.equal(fill(position, color, known), color)


def test_nearest_takes_the_nearest() -> None:
    position = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.1, 0, 0], [0.8, 0, 0]])
    color = torch.tensor([[1.0], [2.0], [0.0], [0.0]])
    known = torch.tensor([True, True, False, False])
    one = fill_nearest_surface(position, color, known, neighbors=1)
    assert one[:, 0].tolist() == [1, 2, 1, 2]
    blend = fill_nearest_surface(position, color, known, neighbors=2)
    assert 1 < blend[2, 0] < 1.1
    assert 1.8 < blend[3, 0] < 2


def test_one_very_near_point_does_not_hide_all_others() -> None:
    """Squared distances count from a hundredth of that of the farthest neighbour."""
    position = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1e-4, 0, 0]])
    color = torch.tensor([[0.0], [1.0], [0.5]])
    filled = fill_nearest_surface(position, color, torch.tensor([True, True, False]))
    assert filled[2].item() == pytest.approx(0.01 / (1.01 + 0.01), rel=1e-3)


def test_what_no_path_joins_to_a_colour_takes_the_nearest() -> None:
    """Of a strip that is red on the left and blue on the right, a patch far to the right."""
    strip, patch = plane(20), plane(20) + torch.tensor([9.0, 0, 0])
    position = torch.cat([strip, patch])
    color = torch.zeros(len(position), 3)
    color[: len(strip), 0] = (strip[:, 0] < 0.5).float()
    color[: len(strip), 2] = (strip[:, 0] >= 0.5).float()
    known = torch.arange(len(position)) < len(strip)
    filled = fill_smooth_surface(position, color, known)[~known]
    torch.testing.assert_close(
        filled, torch.tensor([0.0, 0, 1]).expand_as(filled), atol=1e-3, rtol=0
    )


def test_smooth_fill_has_no_border_where_two_colours_meet() -> None:
    position = plane(60) * torch.tensor([1.0, 0.2, 1.0])
    x = position[:, 0]
    known = (x < 0.1) | (x > 0.9)
    color = (x > 0.5).float()[:, None]
    steps = {}
    for fill in FILLS:
        rows = fill(position, color, known)[:, 0].reshape(60, 60).mean(1)
        assert (rows.diff() > -1e-3).all()
        steps[fill] = rows.diff().max().item()
    assert steps[fill_nearest_surface] > 0.4
    assert steps[fill_smooth_surface] < 0.1  # steepest where the two halves meet; nearest jumps


@pytest.mark.parametrize("fill", FILLS)
def test_normals_keep_the_sides_of_a_sheet_apart(fill) -> None:
    top = plane(40)
    position = torch.cat([top, top - torch.tensor([0.0, 0.0, 0.01])])
    normal = torch.zeros_like(position)
    normal[: len(top), 2], normal[len(top) :, 2] = 1.0, -1.0
    color = normal[:, 2:].clone()
    known = position[:, 0] < 0.2
    known[len(top) :] &= position[len(top) :, 0] < 0.1  # the lower side knows less
    filled = fill(position, color, known, normal=normal)
    near = position[:, 0] < 0.2
    assert (filled - color).abs()[near].max() < 0.2


def box_side(axis: int, side: float, count: int = 24) -> torch.Tensor:
    """Points on one side of the cube [-1, 1], ``[count^2, 3]``."""
    flat = plane(count) * 2 - 1
    flat[:, 2] = side
    return flat.roll(axis + 1, dims=1)


def test_a_part_is_filled_from_itself_and_over_its_edges() -> None:
    """A white box whose top is not seen, with a black plate that lies on it, facing as it does."""
    sides = [box_side(axis, side) for axis in range(3) for side in (-1.0, 1.0)]
    normals = [
        torch.eye(3)[axis].expand(576, 3) * side for axis in range(3) for side in (-1.0, 1.0)
    ]
    plate = box_side(2, 1.0) * torch.tensor([0.25, 0.25, 1.02]) + torch.tensor([0.75, 0.75, 0.0])
    position = torch.cat([*sides, plate])
    normal = torch.cat([*normals, normals[5]])
    color = torch.ones(len(position), 3)
    color[-576:] = 0.0
    part = torch.zeros(len(position), dtype=torch.int64)
    part[-576:] = 3
    known = torch.ones(len(position), dtype=torch.bool)
    top = slice(5 * 576, 6 * 576)
    known[top] = False
    mixed = fill_smooth_surface(position, color, known, normal=normal)[top]
    filled = fill_smooth_surface(position, color, known, normal=normal, part=part)[top]
    assert float(mixed.mean()) < 0.5, "all that faces up is the plate"
    assert float(filled.mean()) > 0.97
    known[-576:] = False  # nothing of a part is known: it takes the colour of what it touches
    assert float(fill_smooth_surface(position, color, known, normal=normal, part=part).min()) > 0.97


def test_a_small_gap_in_one_of_many_parts_is_filled_from_that_part() -> None:
    """Ten sheets of a colour each; what is not known is far smaller than all of them."""
    sheets = [plane(20) + torch.tensor([0.0, 0.0, 0.3 * number]) for number in range(10)]
    position = torch.cat(sheets)
    part = torch.arange(10).repeat_interleave(400)
    color = part[:, None] / 9.0
    known = torch.ones(len(position), dtype=torch.bool)
    known[[7 * 400 + 209, 7 * 400 + 210]] = False
    filled = fill_smooth_surface(position, color, known, part=part)
    torch.testing.assert_close(filled, color, atol=1e-3, rtol=0)


def test_sides_of_a_thin_wall_stay_apart_in_one_part() -> None:
    top = plane(40)
    position = torch.cat([top, top - torch.tensor([0.0, 0.0, 0.01])])
    normal = torch.zeros_like(position)
    normal[: len(top), 2], normal[len(top) :, 2] = 1.0, -1.0
    color = (normal[:, 2:] + 1) / 2
    known = position[:, 0] < 0.2
    part = torch.zeros(len(position), dtype=torch.int64)
    filled = fill_smooth_surface(position, color, known, normal=normal, part=part)
    assert float((filled - color).abs().max()) < 0.2


def test_parts_that_do_not_fit_are_refused() -> None:
    position, color, known = plane(3), torch.zeros(9, 3), torch.zeros(9, dtype=torch.bool)
    for part in (torch.zeros(8, dtype=torch.int64), torch.zeros(9)):
        with pytest.raises(UsageError, match="part"):
            fill_smooth_surface(position, color, known, part=part)


@pytest.mark.parametrize("fill", FILLS)
def test_bad_points_are_refused(fill) -> None:
    position, color, known = plane(3), torch.zeros(9, 3), torch.zeros(9, dtype=torch.bool)
    for arguments in (
        (position[:, :2], color, known),
        (position, color[:5], known),
        (position, color, known.float()),
    ):
        with pytest.raises(UsageError, match="position"):
            fill(*arguments)
    with pytest.raises(UsageError, match="normal"):
        fill(position, color, known, normal=position[:4])
    with pytest.raises(UsageError, match="neighbors"):
        fill(position, color, known, neighbors=0)


# --- seams ---------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.sampled_from([1, 5, 16, 31, 64]),
    width=st.sampled_from([3, 8, 33, 64]),
)
def test_mip_levels_see_charted_colours_only(seed: int, height: int, width: int) -> None:
    """Charts of colours in [0.4, 0.6] on a background of 0: no level leaves that range."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(height, width, generator=generator) < 0.02
    mask[seed % height, seed % width] = True
    texture = (0.4 + 0.2 * torch.rand(3, height, width, generator=generator)) * mask
    padded = pad_seams(texture, mask)
    assert torch.equal(padded[:, mask], texture[:, mask])
    for level in mip_levels(padded):
        assert level.min() >= 0.4 - 1e-6
        assert level.max() <= 0.6 + 1e-6


def test_mip_texels_are_the_mean_of_their_chart() -> None:
    """Two charts far apart: at every level each chart's texels show its own colour."""
    texture, mask = torch.zeros(1, 64, 64), torch.zeros(64, 64, dtype=torch.bool)
    mask[3:13, 5:14] = True
    mask[35:60, 40:61] = True
    texture[0, 3:13, 5:14], texture[0, 35:60, 40:61] = 1.0, 0.25
    for number, level in enumerate(mip_levels(pad_seams(texture, mask))[:6]):
        size = 2**number
        assert level[0, 5 // size, 7 // size].item() == pytest.approx(1.0), number
        assert level[0, 50 // size, 50 // size].item() == pytest.approx(0.25), number


def test_texels_beside_a_chart_continue_its_border() -> None:
    texture, mask = torch.zeros(1, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    mask[:, 4:8] = True
    texture[0, :, 4:8] = 10 * torch.arange(16.0)[:, None] + torch.arange(1.0, 5.0)
    padded = pad_seams(texture, mask)[0]
    assert (padded[:, :4] == texture[0, :, 4:5]).all()
    assert (padded[:, 8:12] == texture[0, :, 7:8]).all()


def test_nothing_to_pad() -> None:
    texture = torch.rand(3, 4, 4)
    for mask in (torch.ones(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)):
        assert torch.equal(pad_seams(texture, mask), texture)
    with pytest.raises(UsageError, match="boolean"):
        pad_seams(texture, torch.ones(4, 4))


def test_extend_nearest_stops_at_its_reach() -> None:
    image, known = torch.zeros(1, 1, 9), torch.zeros(1, 9, dtype=torch.bool)
    image[0, 0, 4], known[0, 4] = 5.0, True
    assert extend_nearest(image, known)[0, 0].tolist() == [5.0] * 9
    assert extend_nearest(image, known, reach=2)[0, 0].tolist() == [0, 0, 5, 5, 5, 5, 5, 0, 0]
