"""Shape families of growing things: trees, flowers, mushrooms, fruit, cacti."""

from __future__ import annotations

import numpy as np

from .curves import Waves, between, chance, rotation_about, rotation_from_z, spline, unit
from .grids import grid_surface
from .part import Array, Assembly, Part, Shape
from .solids import cone_between, cube_sphere, ellipsoid, revolved, tube


def lumpy_ball(rng: np.random.Generator, *, cells: int = 8, depth: float = 0.2) -> Part:
    """A ball with smooth lumps."""
    ball = cube_sphere(cells)
    gain = 1 + depth * Waves(rng, frequency=0.6, octaves=2)(ball.vertices)
    return Part(
        vertices=ball.vertices * gain[:, None],
        faces=ball.faces,
        corner_uv=ball.corner_uv,
        chart=ball.chart,
    )


def tree(rng: np.random.Generator) -> Shape:
    """A trunk with round or conical crowns."""
    build = Assembly()
    bend = rng.uniform(-0.2, 0.2, size=(3, 2))
    knots = np.concatenate([[[0, 0, 0]], np.column_stack([bend, [0.4, 0.8, 1.2]])])
    path = spline(knots, 16)
    build.add("trunk", tube(path, np.linspace(between(rng, 0.12, 0.22), 0.07, 16), sides=12))
    if chance(rng, 0.4):
        for k in range(int(rng.integers(2, 5))):
            z, size = 0.5 + 0.35 * k, 0.75 - 0.14 * k
            cone = cone_between((0, 0, z), (0, 0, z + 0.6), size, 0.0, segments=22)
            build.add("crown", cone.moved(*(0.5 * bend[0])))
    else:
        for _ in range(int(rng.integers(1, 6))):
            ball = lumpy_ball(rng, depth=0.15).scaled(*rng.uniform(0.3, 0.6, size=3))
            spread = rng.uniform((-0.45, -0.45, 0.9), (0.45, 0.45, 1.5))
            build.add("crown", ball.moved(*spread))
    if chance(rng, 0.5):
        for _ in range(int(rng.integers(3, 9))):
            direction = unit(rng.normal(size=3)) * np.array([0.6, 0.6, 0.45])
            build.add(
                "fruit",
                ellipsoid(np.full(3, 0.08), center=direction + np.array([0, 0, 1.2]), detail=6),
            )
    return build.shape()


def flower(rng: np.random.Generator) -> Shape:
    """Petals around a heart on a stem with leaves, perhaps in a pot."""
    build, height = Assembly(), between(rng, 0.6, 1.2)
    path = spline([[0.0, 0, 0], [between(rng, -0.15, 0.15), 0, height / 2], [0, 0, height]], 14)
    build.add("stem", tube(path, np.full(14, 0.045), sides=8))
    count, length, lift = int(rng.integers(4, 11)), between(rng, 0.35, 0.6), between(rng, -0.2, 0.9)
    petal = ellipsoid(
        (length / 2, length * 0.25, 0.035), center=(length / 2 + 0.08, 0, 0), detail=9
    )
    petal = petal.transformed(rotation_about("y", -lift))
    tilt = rotation_about("x", between(rng, 0.0, 1.3))
    for k in range(count):
        turned = petal.transformed(rotation_about("z", 2 * np.pi * k / count))
        build.add("petals", turned.transformed(tilt, (0, 0, height)))
    heart = ellipsoid((0.16, 0.16, 0.1), detail=9).transformed(tilt, (0, 0, height))
    build.add("heart", heart)
    for z in rng.uniform(0.2, 0.7, size=int(rng.integers(0, 4))) * height:
        leaf = ellipsoid((0.25, 0.1, 0.02), center=(0.25, 0, 0), detail=8)
        leaf = leaf.transformed(rotation_about("y", -0.5))
        build.add("leaves", leaf.transformed(rotation_about("z", between(rng, 0, 6.28)), (0, 0, z)))
    if chance(rng, 0.6):
        build.add(
            "pot", cone_between((0, 0, -0.4), (0, 0, 0.05), 0.22, 0.32, segments=28, bevel=0.03)
        )
    return build.shape()


def mushroom(rng: np.random.Generator) -> Shape:
    """One to three mushrooms: stem, cap, ring."""
    build = Assembly()
    for k in range(int(rng.integers(1, 4))):
        size = 1.0 if k == 0 else between(rng, 0.35, 0.7)
        at = np.array([0.0, 0.0, 0.0]) if k == 0 else np.append(rng.uniform(-0.7, 0.7, size=2), 0.0)
        tall, wide, dome = between(rng, 0.5, 1.0), between(rng, 0.4, 0.8), between(rng, 0.25, 0.6)
        knots = [[0.2, 0.0], [0.15, tall * 0.5], [0.13, tall]]
        stem = np.concatenate([[[0, 0]], spline(knots, 10), [[0, tall]]])
        build.add("stem", revolved(stem, segments=20, crease=60.0).scaled(size).moved(*at))
        turn = np.linspace(0, np.pi / 2, 12)
        cap = np.stack([wide * np.cos(turn), tall + dome * np.sin(turn)], axis=1)
        cap[-1, 0] = 0.0
        lip = np.array([[0, tall + 0.06], [wide * 0.6, tall - 0.02], [wide * 0.97, tall - 0.05]])
        build.add(
            "cap",
            revolved(np.concatenate([lip, cap]), segments=32, crease=80.0).scaled(size).moved(*at),
        )
    return build.shape()


def fruit(rng: np.random.Generator) -> Shape:
    """Apples, pears, pumpkins, aubergines: a lobed body with stalk and leaf."""
    build = Assembly()
    knots = np.stack([rng.uniform(0.35, 0.9, size=4), np.linspace(-0.65, 0.65, 4)], axis=1)
    rows = spline(np.concatenate([[[0.05, -0.75]], knots, [[0.05, 0.6]]]), 24)
    rows[:, 0] = np.maximum(rows[:, 0], 0.02)
    profile = np.concatenate([[[0, rows[0, 1]]], rows, [[0, rows[-1, 1] - 0.05]]])
    body = revolved(profile, segments=40)
    x, y, z = body.vertices.T
    lobes = int(rng.integers(3, 13)) if chance(rng, 0.5) else 0
    gain = 1 + (between(rng, 0.03, 0.12) * np.cos(lobes * np.arctan2(y, x)) if lobes else 0.0)
    body = Part(
        vertices=np.stack([x * gain, y * gain, z], axis=1),
        faces=body.faces,
        corner_uv=body.corner_uv,
        chart=body.chart,
    )
    build.add("flesh", body)
    stalk = spline([[0, 0, 0.45], [0.03, 0, 0.75], [between(rng, -0.2, 0.2), 0.05, 0.95]], 10)
    build.add("stalk", tube(stalk, np.linspace(0.06, 0.045, 10), sides=8))
    for _ in range(int(rng.integers(0, 3))):
        turn = rotation_about("z", between(rng, 0, 6.28))
        leaf = leaf_blade(between(rng, 0.35, 0.6)).transformed(rotation_about("y", -0.4))
        build.add("leaf", leaf.transformed(turn, (0, 0, 0.68)))
    return build.shape()


def leaf_blade(length: float) -> Part:
    """A thin pointed open leaf along +x, folded at its midrib."""
    t, s = np.meshgrid(np.linspace(0, 1, 12), np.linspace(-1, 1, 7), indexing="ij")
    width = 0.5 * length * np.sin(np.pi * np.clip(t, 0.02, 0.98)) * 0.6
    z = 0.25 * np.abs(s) * width + 0.15 * length * np.sin(2.2 * t)
    return grid_surface(np.stack([length * t, s * width, z], axis=-1))


def cactus(rng: np.random.Generator) -> Shape:
    """Ribbed columns with arms, in a pot."""
    build = Assembly()
    ribs, height = int(rng.integers(6, 12)), between(rng, 0.8, 1.5)
    build.add(
        "skin",
        _column(
            np.array([[0, 0, 0], [0, 0, height / 2], [0, 0, height]]), between(rng, 0.2, 0.35), ribs
        ),
    )
    for _ in range(int(rng.integers(0, 4))):
        turn, z = rotation_about("z", between(rng, 0, 6.28)), between(rng, 0.25, 0.7) * height
        reach = between(rng, 0.35, 0.6)
        arm = np.array([[0, 0, z], [reach, 0, z], [reach, 0, z + between(rng, 0.2, 0.6)]])
        build.add("skin", _column(arm @ turn.T, between(rng, 0.1, 0.16), 7))
    if chance(rng, 0.5):
        build.add("bloom", ellipsoid((0.12, 0.12, 0.1), center=(0, 0, height + 0.02), detail=8))
    if chance(rng, 0.7):
        build.add(
            "pot", cone_between((0, 0, -0.45), (0, 0, 0.08), 0.3, 0.42, segments=28, bevel=0.04)
        )
    return build.shape()


def _column(knots: Array, radius: float, ribs: int) -> Part:
    turn = np.linspace(0, 2 * np.pi, 4 * ribs, endpoint=False)
    wave = 1 + 0.12 * np.cos(ribs * turn)
    section = np.stack([wave * np.cos(turn), wave * np.sin(turn)], axis=1)
    radii = radius * np.sqrt(np.clip(np.linspace(0, 1, 20)[::-1] * 5, 0, 1))
    return tube(spline(knots, 20), radii, section=section, crease=180.0)


def bunch(rng: np.random.Generator) -> Shape:
    """Many balls or blocks packed together: grapes, coral, flower heads, caviar."""
    build = Assembly()
    count = int(rng.integers(6, 22))
    directions = unit(rng.normal(size=(count, 3))) * rng.uniform(0.3, 0.75, size=(count, 1))
    oval = rng.uniform(0.7, 1.3, size=3)
    for k, direction in enumerate(directions):
        size = between(rng, 0.16, 0.34)
        ball = ellipsoid(size * oval, detail=7).transformed(rotation_from_z(direction), direction)
        build.add(f"berry{k % 3}", ball)
    if chance(rng, 0.5):
        build.add("core", ellipsoid(np.full(3, 0.45), detail=10))
    return build.shape()
