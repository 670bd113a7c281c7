"""Shape families from signed distances: blends, booleans, smooth creatures, clusters."""

from __future__ import annotations

import numpy as np

from .curves import Waves, between, chance, random_rotation, rotation_about, unit
from .distances import ball, blended, block, common, drum, mirrored, ring, rod, without
from .part import Array, Shape
from .surface_nets import Distance, implicit_part


def _random_solid(rng: np.random.Generator, *, reach: float = 0.5) -> Distance:
    """A random simple solid near the origin."""
    kind, center = int(rng.integers(5)), rng.uniform(-reach, reach, size=3)
    turn = random_rotation(rng)
    if kind == 0:
        return ball(center, rng.uniform(0.2, 0.55, size=3))
    if kind == 1:
        return block(center, rng.uniform(0.15, 0.5, size=3), rounding=0.05, turn=turn)
    if kind == 2:
        end = rng.uniform(-reach - 0.2, reach + 0.2, size=3)
        return rod(center, end, between(rng, 0.1, 0.28), between(rng, 0.1, 0.28))
    if kind == 3:
        return ring(center, between(rng, 0.25, 0.5), between(rng, 0.08, 0.18), turn)
    return drum(center, between(rng, 0.15, 0.45), between(rng, 0.1, 0.5), turn)


def blend(rng: np.random.Generator) -> Shape:
    """Random solids that flow into each other."""
    symmetric = chance(rng, 0.5)
    solids = [_random_solid(rng) for _ in range(int(rng.integers(2, 6)))]
    solid = blended([ball((0, 0, 0), 0.35), *solids], between(rng, 0.08, 0.3))
    part = implicit_part(
        mirrored(solid) if symmetric else solid,
        bound=1.35,
        resolution=int(rng.integers(28, 38)),
        crease=180.0,
    )
    return Shape(parts=(part,), labels=(0,))


def boolean(rng: np.random.Generator) -> Shape:
    """A body with others cut out of it or cut to a common part; hard edges."""
    symmetric = chance(rng, 0.5)
    half = rng.uniform(0.55, 0.85, size=3)
    if chance(rng, 0.5):
        body = block((0, 0, 0), half, rounding=between(rng, 0.02, 0.15))
    else:
        body = drum((0, 0, 0), float(half[0]), float(half[2]), np.eye(3))
    if chance(rng, 0.35):
        body = common(body, ball((0, 0, 0), between(rng, 0.8, 1.0)))
    for _ in range(int(rng.integers(1, 4))):
        body = without(body, _random_solid(rng, reach=0.6))
    part = implicit_part(
        mirrored(body) if symmetric else body,
        bound=1.0,
        resolution=int(rng.integers(26, 33)),
        crease=50.0,
        refine=3,
    )
    return Shape(parts=(part,), labels=(0,))


def creature(rng: np.random.Generator) -> Shape:
    """A smooth animal: body, head, two to six limbs, tail, ears; mirror symmetric."""
    body = rng.uniform((0.22, 0.4, 0.22), (0.42, 0.75, 0.42))
    solids: list[Distance] = [ball((0, 0, 0), body)]
    neck = np.array([0.0, -body[1] * 0.9, body[2] * between(rng, 0.3, 1.3)])
    head = between(rng, 0.18, 0.36)
    solids += [ball(neck, (head, head * between(rng, 0.9, 1.4), head))]
    solids += [rod((0, -body[1] * 0.5, 0), neck, body[0] * 0.6, head * 0.6)]
    if chance(rng, 0.6):
        nose = neck + np.array([0.0, -head - between(rng, 0.05, 0.25), -0.05])
        solids.append(rod(neck, nose, head * 0.55, head * between(rng, 0.2, 0.45)))
    for y in np.linspace(-body[1] * 0.7, body[1] * 0.7, int(rng.integers(1, 4))):
        hip = np.array([body[0] * 0.6, y, -body[2] * 0.3])
        foot = hip + np.array(
            [between(rng, 0.05, 0.4), between(rng, -0.2, 0.1), -body[2] - between(rng, 0.2, 0.5)]
        )
        knee = (hip + foot) / 2 + rng.uniform(-0.12, 0.12, size=3)
        thick = between(rng, 0.08, 0.16)
        solids += [rod(hip, knee, thick * 1.3, thick), rod(knee, foot, thick, thick * 0.9)]
        solids.append(ball(foot + np.array([0.0, -0.05, 0.0]), (thick, thick * 1.5, thick * 0.8)))
    if chance(rng, 0.7):
        ear = neck + np.array([head * 0.6, 0.0, head * 0.7])
        tip = ear + rng.uniform((0.0, -0.1, 0.08), (0.2, 0.15, 0.5))
        solids.append(rod(ear, tip, 0.1, 0.06))
    if chance(rng, 0.7):
        root = np.array([0.0, body[1] * 0.9, 0.0])
        tip = root + rng.uniform((0.0, 0.2, -0.2), (1e-6, 0.6, 0.6))
        solids.append(rod(root, tip, 0.11, between(rng, 0.05, 0.14)))
    solid = mirrored(blended(solids, between(rng, 0.04, 0.14)))
    part = implicit_part(solid, bound=1.5, resolution=int(rng.integers(40, 48)), refine=2)
    return Shape(parts=(part,), labels=(0,))


def asteroid(rng: np.random.Generator) -> Shape:
    """Noise shells: caves, corals, cratered rocks."""
    waves = Waves(rng, frequency=between(rng, 0.35, 0.8), octaves=2)
    depth, sphere = between(rng, 0.1, 0.25), ball((0, 0, 0), rng.uniform(0.6, 0.95, size=3))
    craters = unit(rng.normal(size=(int(rng.integers(0, 6)), 3))) * 0.85

    def distance(points: Array) -> Array:
        return np.asarray(sphere(points) + depth * waves(points))

    solid: Distance = distance
    for crater in craters:
        solid = without(solid, ball(crater, between(rng, 0.15, 0.4)))
    part = implicit_part(solid, bound=1.4, resolution=int(rng.integers(28, 38)))
    return Shape(parts=(part,), labels=(0,))


def bust(rng: np.random.Generator) -> Shape:
    """A head on shoulders: nose, ears, hair, eye sockets; mirror symmetric, smooth."""
    skull = ball((0, 0, 0.25), rng.uniform((0.36, 0.4, 0.42), (0.5, 0.55, 0.6)))
    solids = [skull, rod((0, 0.05, 0.0), (0, 0.05, -0.5), 0.2, 0.25)]
    solids.append(ball((0.0, 0.05, -0.8), (between(rng, 0.6, 0.9), 0.35, 0.3)))
    solids.append(rod((0, -0.4, 0.3), (0, -0.5 - between(rng, 0, 0.2), 0.18), 0.07, 0.1))
    solids.append(ball((0.47, 0.05, 0.25), (0.07, 0.13, between(rng, 0.14, 0.35))))
    if chance(rng, 0.5):
        turn = rotation_about("x", between(rng, -0.4, 0.4))
        solids.append(drum((0, 0, 0.62), between(rng, 0.4, 0.65), 0.06, turn))
    if chance(rng, 0.5):
        solids.append(ball((0, 0.1, between(rng, 0.5, 0.8)), rng.uniform(0.2, 0.45, size=3)))
    face = blended(solids, 0.1)
    carved = without(face, ball((0.2, -0.5, 0.35), 0.12), 0.06)
    base = common(mirrored(carved), block((0, 0, 0), (1.2, 1.2, 0.98)))
    part = implicit_part(base, bound=1.3, resolution=int(rng.integers(36, 44)), crease=70.0)
    return Shape(parts=(part,), labels=(0,))
