"""Shape families of household things: mugs, teapots, bottles, lamps, tools, hats, candles."""

from __future__ import annotations

import numpy as np

from .curves import between, chance, resampled, spline
from .grids import grid_surface
from .part import Array, Assembly, Shape
from .solids import box, capsule_between, cone_between, ellipsoid, revolved, torus, tube


def _cup_profile(rng: np.random.Generator, height: float, *, wall: float = 0.06) -> Array:
    """Profile of a thick-walled cup from the axis outside, over the rim and back to the axis."""
    knots = np.stack([rng.uniform(0.4, 0.75, size=4), np.linspace(0, height, 4)], axis=1)
    outer = spline(knots, 14)
    inner = outer[::-1][:-2] - np.array([wall, 0.0])
    inner[-1, 1] = max(float(inner[-1, 1]), wall)
    return np.concatenate([[[0.0, 0.0]], outer, inner, [[0.0, inner[-1, 1]]]])


def mug(rng: np.random.Generator) -> Shape:
    """A cup with one or two handles, perhaps on a saucer."""
    build, height = Assembly(), between(rng, 0.7, 1.4)
    profile = _cup_profile(rng, height)
    build.add("cup", revolved(profile, segments=36, crease=40.0))
    side = float(np.interp(height / 2, profile[1:15, 1], profile[1:15, 0]))
    arc = np.linspace(-1.3, 1.3, 20)
    reach = between(rng, 0.25, 0.45)
    path = np.stack(
        [0 * arc, side - 0.12 + reach * np.cos(arc), height * (0.5 + 0.3 * np.sin(arc))], axis=1
    )
    thick = np.full(20, between(rng, 0.05, 0.1))
    handle = tube(path, thick, sides=10)
    both = chance(rng, 0.25)
    build.add("handle", handle, *([handle.scaled(1, -1, 1)] if both else []))
    if chance(rng, 0.35):
        dish = np.array(
            [[0, -0.08], [0.5, -0.08], [0.95, 0.1], [0.9, 0.12], [0.5, -0.02], [0, -0.02]]
        )
        build.add("saucer", revolved(dish, segments=36, crease=50.0))
    if chance(rng, 0.4):
        level = height * between(rng, 0.6, 0.9)
        width = float(np.interp(level, profile[1:15, 1], profile[1:15, 0])) - 0.05
        build.add("drink", cone_between((0, 0, level - 0.03), (0, 0, level), width, segments=36))
    return build.shape()


def teapot(rng: np.random.Generator) -> Shape:
    """A round pot with spout, handle, lid and knob; or a watering can."""
    build = Assembly()
    wide, height = between(rng, 0.5, 0.75), between(rng, 0.7, 1.1)
    knots = [
        [wide * 0.6, 0.0],
        [wide, height * 0.35],
        [wide * 0.9, height * 0.7],
        [wide * 0.45, height],
    ]
    profile = np.concatenate([[[0.0, 0.0]], spline(knots, 18), [[0.0, height]]])
    build.add("pot", revolved(profile, segments=36, crease=50.0))
    spout = spline(
        [
            [0, -wide * 0.7, height * 0.3],
            [0, -wide * 1.25, height * between(rng, 0.35, 0.6)],
            [0, -wide * 1.6, height * between(rng, 0.8, 1.15)],
        ],
        16,
    )
    build.add("spout", tube(spout, np.linspace(0.16, 0.07, 16), sides=14))
    if chance(rng, 0.5):
        arc = np.linspace(-1.4, 1.4, 20)
        path = np.stack(
            [0 * arc, wide * 0.75 + 0.4 * np.cos(arc), height * (0.5 + 0.33 * np.sin(arc))], axis=1
        )
    else:
        arc = np.linspace(0.25, np.pi - 0.25, 22)
        path = np.stack([0 * arc, wide * np.cos(arc), height * 0.75 + 0.65 * np.sin(arc)], axis=1)
    build.add("handle", tube(path, np.full(len(path), between(rng, 0.04, 0.08)), sides=10))
    lid = np.array(
        [
            [wide * 0.47, height],
            [wide * 0.4, height + 0.1],
            [wide * 0.1, height + 0.16],
            [0, height + 0.17],
        ]
    )
    build.add("lid", revolved(np.concatenate([[[0, height]], lid]), segments=30, crease=60.0))
    build.add(
        "knob",
        ellipsoid(np.full(3, between(rng, 0.06, 0.12)), center=(0, 0, height + 0.22), detail=8),
    )
    return build.shape()


def bottle(rng: np.random.Generator) -> Shape:
    """Bottles, jars and flasks with cap and label band; round or square."""
    build = Assembly()
    wide, neck, height = between(rng, 0.3, 0.6), between(rng, 0.1, 0.25), between(rng, 1.2, 2.0)
    shoulder = between(rng, 0.5, 0.8) * height
    knots = [
        [wide * 0.95, 0.0],
        [wide, 0.1],
        [wide, shoulder],
        [neck * 1.1, shoulder + 0.25],
        [neck, height],
    ]
    profile = np.concatenate([[[0.0, 0.0]], spline(knots, 26), [[0.0, height]]])
    segments = 4 * int(rng.integers(7, 11))
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    body = revolved(profile, segments=segments, crease=45.0, angles=turn)
    build.add("glass", body)
    cap = between(rng, 0.12, 0.3)
    build.add(
        "cap",
        cone_between(
            (0, 0, height - 0.02),
            (0, 0, height + cap),
            neck * 1.25,
            neck * between(rng, 0.9, 1.25),
            segments=24,
            bevel=0.03,
        ),
    )
    low, high = sorted(rng.uniform(0.15, shoulder - 0.05, size=2))
    if high - low > 0.2:
        band = np.array(
            [[wide * 0.9, low], [wide * 1.03, low], [wide * 1.03, high], [wide * 0.9, high]]
        )
        band = np.concatenate([[[0.0, low]], band, [[0.0, high]]])
        build.add("label", revolved(band, segments=segments, crease=30.0))
    if chance(rng, 0.3):
        build.add("ring", torus(neck * 1.2, 0.04, segments=24, sides=8).moved(z=shoulder + 0.3))
    return build.shape()


def lamp(rng: np.random.Generator) -> Shape:
    """Table and floor lamps: foot, stem, shade, bulb."""
    build, height = Assembly(), between(rng, 0.8, 1.8)
    foot = between(rng, 0.25, 0.5)
    build.add(
        "foot",
        cone_between(
            (0, 0, 0),
            (0, 0, between(rng, 0.06, 0.25)),
            foot,
            foot * between(rng, 0.4, 0.95),
            segments=28,
            bevel=0.03,
        ),
    )
    knots = np.stack([rng.uniform(0.04, 0.18, size=5), np.linspace(0.05, height, 5)], axis=1)
    stem = np.concatenate([[[0.0, 0.05]], spline(knots, 20), [[0.0, height]]])
    build.add("stem", revolved(stem, segments=18, crease=60.0))
    low, high = between(rng, 0.4, 0.7), between(rng, 0.15, 0.4)
    tall = between(rng, 0.4, 0.7)
    wall = 0.02
    rows = [[low, 0], [high, tall], [high - wall, tall], [low - wall, 0], [low, 0]]
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    path = resampled(np.array(rows, dtype=np.float64), 24, closed=False)
    points = np.stack(
        [path[:-1, :1] * np.cos(turn), path[:-1, :1] * np.sin(turn), path[:-1, 1:] + 0 * turn],
        axis=-1,
    )
    shade = grid_surface(points, wrap=True, wrap_rows=True, crease=40.0).oriented()
    build.add("shade", shade.moved(z=height - tall * 0.4))
    build.add("bulb", ellipsoid((0.12, 0.12, 0.16), center=(0, 0, height + 0.08), detail=8))
    return build.shape()


def tool(rng: np.random.Generator) -> Shape:
    """Hammers, brushes, swords, spoons, mushrooms on sticks: a grip and a head."""
    build, length = Assembly(), between(rng, 1.0, 1.8)
    thick = between(rng, 0.06, 0.13)
    build.add("grip", capsule_between((0, 0, 0), (0, 0, length * 0.5), thick, thick * 0.9))
    build.add(
        "shaft", cone_between((0, 0, length * 0.4), (0, 0, length), thick * 0.75, segments=16)
    )
    style = int(rng.integers(5))
    if style == 0:
        size = rng.uniform((0.15, 0.5, 0.15), (0.35, 1.0, 0.35))
        build.add("head", box(size, center=(0, 0, length), bevel=0.04, rounds=2))
    elif style == 1:
        build.add(
            "head",
            ellipsoid(
                rng.uniform((0.2, 0.05, 0.25), (0.4, 0.15, 0.5)), center=(0, 0, length + 0.2)
            ),
        )
    elif style == 2:
        build.add(
            "guard",
            box((between(rng, 0.5, 0.9), 0.1, 0.08), center=(0, 0, length * 0.5), bevel=0.03),
        )
        build.add(
            "head",
            cone_between((0, 0, length * 0.5), (0, 0, length * 1.7), 0.16, 0.0, segments=4).scaled(
                1, 0.35, 1
            ),
        )
    elif style == 3:
        for k in range(int(rng.integers(2, 5))):
            build.add(
                f"disc{k % 2}",
                cone_between(
                    (0, 0, length + 0.2 * k),
                    (0, 0, length + 0.2 * k + 0.15),
                    between(rng, 0.2, 0.5),
                    segments=28,
                    bevel=0.03,
                ),
            )
    else:
        build.add(
            "head",
            cone_between(
                (0, -0.45, length),
                (0, 0.45, length),
                0.2,
                between(rng, 0.05, 0.3),
                segments=24,
                bevel=0.03,
            ),
        )
    if chance(rng, 0.5):
        build.add("band", torus(thick * 1.05, 0.035, segments=20, sides=8).moved(z=length * 0.5))
    return build.shape()


def cake(rng: np.random.Generator) -> Shape:
    """Tiered rounds with toppings: cakes, hats, drums, planters with balls on top."""
    build, level, radius = Assembly(), 0.0, between(rng, 0.7, 1.0)
    for k in range(int(rng.integers(1, 4))):
        tall = between(rng, 0.2, 0.6)
        build.add(
            f"tier{k}",
            cone_between(
                (0, 0, level),
                (0, 0, level + tall),
                radius,
                radius * between(rng, 0.85, 1.0),
                segments=40,
                bevel=between(rng, 0.0, 0.08),
            ),
        )
        if chance(rng, 0.5):
            build.add(
                "trim", torus(radius * 0.98, 0.05, segments=40, sides=8).moved(z=level + tall)
            )
        level, radius = level + tall, radius * between(rng, 0.5, 0.8)
    count = 2 * int(rng.integers(2, 6))
    for angle in np.arange(count) * 2 * np.pi / count:
        x, y = 1.1 * radius * np.cos(angle), 1.1 * radius * np.sin(angle)
        build.add("topping", ellipsoid(np.full(3, 0.12), center=(x, y, level + 0.05), detail=7))
    if chance(rng, 0.6):
        build.add(
            "top",
            capsule_between((0, 0, level), (0, 0, level + between(rng, 0.1, 0.4)), 0.12, 0.08),
        )
    return build.shape()
