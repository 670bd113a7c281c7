"""Ways to continue colours over a surface: each is right where its pattern is the true one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_geometry.continuation import (
    EVIDENCE,
    WAYS,
    Continuations,
    _drawn,
    area_shares,
    averaged,
    continue_colors,
)
from seqtex_geometry.pattern_metric import PatternMetric, learn_metric, regress


def sphere(count: int = 1500) -> Tensor:
    """Points spread evenly over the unit sphere, ``[N, 3]``; they are their own normals."""
    step = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * step + 1) / count
    angle = step * torch.pi * (3 - 5**0.5)
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=1).float()


def continued(points: Tensor, colors: Tensor, **options: int) -> tuple[Continuations, Tensor]:
    """What a viewer at -y sees, continued; and the truth."""
    known = points[:, 1] < -0.05
    shown = torch.where(known[:, None], colors, 0.5)
    return continue_colors(points, points, shown, known, **options), colors[~known]


def errors(points: Tensor, colors: Tensor) -> dict[str, float]:
    ways, truth = continued(points, colors)
    squared = (ways.colors - truth[:, None]).square().mean(dim=(0, 2))
    return dict(zip(WAYS, squared.tolist(), strict=True))


def bands(values: Tensor) -> Tensor:
    wave = 0.5 + 0.4 * torch.sin(9 * values)
    return torch.stack([wave, 1 - wave, 0.5 * wave], dim=1)


@pytest.mark.parametrize(
    ("way", "values"),
    [
        ("height", lambda p: p[:, 2]),
        ("across", lambda p: p[:, 0]),
        ("ring", lambda p: p[:, 2] + p[:, :2].norm(dim=1)),
        ("mirrored", lambda p: p[:, 1].abs() + 0.3 * p[:, 2]),
        ("through", lambda p: p[:, 0] - p[:, 2]),
        ("mean", lambda p: torch.where(p[:, 1] < 0, p[:, 0], 0.0)),
    ],
)
def test_each_way_is_right_for_its_own_pattern(way, values):
    """Neighbours are 0.05 apart, half a band 0.35: interpolation leaves a few percent."""
    points = sphere()
    found = errors(points, bands(values(points)) if way != "mean" else _two_sides(points))
    variance = float(bands(values(points)).var(dim=0).mean())
    assert found[way] < 0.1 * variance
    if way != "mean":
        assert found["mean"] > 0.5 * variance


def _two_sides(points: Tensor) -> Tensor:
    """Noise where it is seen, its mean where it is not."""
    seen = bands(50 * points[:, 0])
    return torch.where(points[:, 1:2] < 0, seen, seen[points[:, 1] < -0.05].mean(dim=0))


@pytest.mark.parametrize("way", ["weighed", "mapped"])
def test_a_learned_metric_finds_what_the_colour_depends_on(way):
    """``weighed`` can only choose among features; ``mapped`` finds slanted bands, too."""
    points = sphere()
    slanted = points @ torch.tensor([0.6, 0.0, 0.8])
    found = errors(points, bands(0.5 * (points[:, 2] if way == "weighed" else slanted)))
    assert found[way] < 0.1 * found["mean"]


def test_colours_count_by_their_share_of_the_surface():
    """A sphere whose patch of another colour has most of the points: nothing else changes."""
    even = sphere(1500)
    patch = torch.nn.functional.normalize(
        torch.tensor([0.0, -1.0, 0.3]) + 0.05 * torch.randn(3000, 3), dim=1
    )
    patch = patch[(patch - torch.tensor([0.0, -0.958, 0.287])).norm(dim=1) < 0.12]
    points = torch.cat([even, patch])
    inside = (points - torch.tensor([0.0, -0.958, 0.287])).norm(dim=1) < 0.12
    colors = torch.where(inside[:, None], torch.zeros(3), torch.ones(3))
    assert float(colors[points[:, 1] < -0.05].mean()) < 0.3, "most of the points that are seen"
    mean = continued(points, colors)[0].colors[:, WAYS.index("mean")]
    cap = 0.12**2 / 4 / 0.475  # its share of the sphere over that of what is seen
    assert abs(float(mean.mean()) - (1 - cap)) < 0.02


def test_equal_shares_take_every_point_once():
    rng = np.random.default_rng(0)
    for count in (1, 7, 2999):
        assert _drawn(np.arange(count), np.full(count, 0.3), rng).tolist() == [*range(count)]
    twice = _drawn(np.arange(4), np.array([1.0, 1.0, 4.0, 1e-3]), rng).tolist()
    assert twice.count(2) in (2, 3)
    assert len(twice) == 4


def test_shares_are_areas():
    """A grid at two densities: four times as many points have a quarter of the area each."""
    coarse = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0), torch.zeros(1))
    fine = torch.cartesian_prod(torch.arange(40.0) / 2 + 100, torch.arange(40.0) / 2, torch.ones(1))
    share = area_shares(torch.cat([coarse, fine]).numpy())
    inner = ((coarse[:, :2] > 1) & (coarse[:, :2] < 18)).all(1).numpy()
    assert np.allclose(share[: len(coarse)][inner], 4.0)
    assert np.median(share) == 1.0


def test_shapes_and_ranges():
    points = sphere(600)
    colors = bands(points[:, 2])
    ways, truth = continued(points, colors)
    assert ways.colors.shape == (len(truth), len(WAYS), 3)
    assert ways.evidence.shape == (len(truth), EVIDENCE)
    assert bool(ways.evidence.isfinite().all())
    seen = colors[points[:, 1] < -0.05]
    within = ways.colors[:, 1:]  # the first is what was given
    assert bool((within >= seen.amin(dim=0) - 1e-5).all())
    assert bool((within <= seen.amax(dim=0) + 1e-5).all())
    assert torch.equal(ways.colors[:, 0], torch.full((len(truth), 3), 0.5))


def test_position_and_size_of_the_object_do_not_matter():
    """Equal up to the rounding of coordinates: 2e-7 of a half-edge moves a colour by less than
    1e-3 but where two points are as near as each other."""
    points = sphere(600)
    known = points[:, 1] < -0.05
    colors = bands(points[:, 2])
    here = continue_colors(points, points, colors, known)
    there = continue_colors(4 * points + 7, 3 * points, colors, known)
    close = (here.colors - there.colors).abs().amax(dim=(1, 2)) < 1e-3
    assert float(close.float().mean()) > 0.98


def test_the_same_seed_gives_the_same_and_wanted_rows_are_those_rows():
    points = sphere(600)
    colors = bands(points[:, 2])
    known = points[:, 1] < -0.05
    first = continue_colors(points, points, colors, known)
    assert torch.equal(first.colors, continue_colors(points, points, colors, known).colors)
    wanted = ~known & (points[:, 2] > 0)
    some = continue_colors(points, points, colors, known, wanted=wanted)
    rows = wanted[~known]
    torch.testing.assert_close(some.colors, first.colors[rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(some.evidence, first.evidence[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything_known_is_refused(share):
    points = sphere(20)
    with pytest.raises(UsageError, match="some points with a colour, and some without"):
        continue_colors(points, points, points, torch.full((20,), bool(share)))


def test_wanted_rows_must_be_unknown():
    points = sphere(20)
    known = points[:, 1] < 0
    with pytest.raises(UsageError, match="none of them known"):
        continue_colors(points, points, points, known, wanted=known)


def test_one_known_point_is_enough():
    points = sphere(20)
    known = torch.arange(20) == 3
    ways = continue_colors(points, points, points.abs(), known)
    assert bool(ways.colors[:, 1:].isfinite().all() and ways.evidence.isfinite().all())
    torch.testing.assert_close(ways.colors[:, -1], points.abs()[3].expand(19, 3))


def test_regression_is_the_kernel_mean():
    """Against a loop in fp64; fp32 sums of 30 terms are good to 1e-5."""
    torch.manual_seed(0)
    features, colors, wanted = torch.randn(30, 4), torch.rand(30, 3), torch.randn(5, 4)
    metric = PatternMetric(map=torch.randn(4, 2), error=0.0)
    made, mass = regress(metric, features, colors, wanted)
    for row, target in enumerate(wanted.double()):
        apart = (features.double() - target) @ metric.map.double()
        kernel = torch.exp(-apart.square().sum(dim=1)) / 30
        total = kernel.sum()
        mean = colors.double().mean(dim=0)
        expected = (kernel @ colors.double() + 1e-5 * mean) / (total + 1e-5)
        torch.testing.assert_close(made[row].double(), expected, rtol=1e-4, atol=1e-5)
        assert float(mass[row]) == pytest.approx(float(torch.log10(total + 1e-6)), abs=1e-3)


def test_a_metric_works_where_gradients_are_off():
    points = sphere(200)
    with torch.no_grad():
        metric = learn_metric(points, bands(points[:, 2]), points, full=False)
    assert not metric.map.requires_grad
    assert 0 < metric.error < 1


def test_averages_stay_on_their_side_of_a_wall():
    """Two sheets 0.01 apart, facing away from each other; means run along each, not across."""
    place = torch.linspace(0, 1, 30)
    across, along = torch.meshgrid(place, place, indexing="ij")
    sheet = torch.stack([across.flatten(), along.flatten(), torch.zeros(900)], dim=1)
    position = torch.cat([sheet, sheet + torch.tensor([0.0, 0.0, 0.01])])
    normal = torch.tensor([0.0, 0.0, 1.0]).repeat(1800, 1)
    normal[:900] *= -1
    values = torch.cat([torch.zeros(900, 1), torch.ones(900, 1)])
    assert torch.equal(averaged(values, position, normal), values)
    slope = position[:, :1]
    made = averaged(slope, position, normal)
    inner = (slope > 0.25) & (slope < 0.75)
    assert float((made - slope)[inner].abs().max()) < 1 / 29
    assert torch.equal(averaged(slope, position, normal, neighbors=1), slope)


def two_balls() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Position, normal, colour and part of a red ball and a blue one that cut into each other."""
    one = sphere(500)
    position = torch.cat([one, 0.6 * one + torch.tensor([0.9, 0.0, 0.0])])
    part = torch.arange(2).repeat_interleave(500)
    return (
        position,
        torch.cat([one, one]),
        torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.9]])[part],
        part,
    )


def test_parts_keep_their_colours():
    """However near the other part is, and though its colour is at the same height and depth."""
    position, normal, color, part = two_balls()
    known = normal[:, 1] < -0.05
    ways = continue_colors(position, normal, color, known, part=7 * part)
    expected = color[~known][:, None].expand_as(ways.colors)
    torch.testing.assert_close(ways.colors, expected, rtol=0, atol=1e-5)
    assert bool(ways.evidence.isfinite().all())
    mixed = continue_colors(position, normal, color, known).colors
    assert float((mixed - expected).abs().max()) > 0.3


@pytest.mark.parametrize("number", [-1, 5])
def test_what_is_of_no_part_or_of_one_that_nobody_saw_takes_from_all(number):
    position, normal, color, part = two_balls()
    known = (normal[:, 1] < -0.05) & ((part == 0) | (number < 0))
    wanted = ~known & (part == 1)
    numbers = torch.where(part == 1, number, 0)
    found = continue_colors(position, normal, color, known, wanted=wanted, part=numbers)
    whole = continue_colors(position, normal, color, known, wanted=wanted)
    assert torch.equal(found.colors, whole.colors)
    assert torch.equal(found.evidence, whole.evidence)


def test_averages_stay_in_their_part():
    position, normal, color, part = two_balls()
    torch.testing.assert_close(averaged(color, position, normal, part=part), color)
    assert not torch.allclose(averaged(color, position, normal), color, atol=0.1)
    few = torch.arange(1000) < 3  # fewer points than a mean has
    made = averaged(color, position, normal, part=few.long())
    torch.testing.assert_close(made[:3], color[:3])


@pytest.mark.parametrize("part", [torch.zeros(20), torch.zeros(19, dtype=torch.int64)])
def test_parts_are_numbers_of_the_points(part):
    points = sphere(20)
    with pytest.raises(UsageError, match="part"):
        continue_colors(points, points, points, points[:, 1] < 0, part=part)
    with pytest.raises(UsageError, match="part"):
        averaged(points, points, points, part=part)
