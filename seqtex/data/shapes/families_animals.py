"""Shape families of assembled animals and figures: separate parts that touch, as modellers work."""

from __future__ import annotations

import numpy as np

from .curves import between, chance, rotation_about, spline
from .part import Array, Assembly, Part, Shape
from .solids import box, capsule_between, cone_between, ellipsoid, extruded, tube


def _fin(length: float, height: float, thickness: float, *, sweep: float = 0.3) -> Part:
    """A thin upright fin along -y and z, rounded."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = length / 2 * np.cos(t) + sweep * height * (np.sin(t) * 0.5 + 0.5)
    z = height * (np.sin(t) * 0.5 + 0.5)
    plate = extruded(np.stack([y, z], axis=1), thickness, bevel=thickness * 0.3)
    return plate.transformed(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))


def beast(rng: np.random.Generator) -> Shape:
    """Body, neck, head, four or six legs, ears or horns, tail, eyes."""
    build = Assembly()
    body = rng.uniform((0.28, 0.5, 0.26), (0.45, 0.85, 0.45))
    build.add("body", ellipsoid(body, detail=14))
    head_at = np.array([0.0, -body[1] - between(rng, 0.0, 0.25), body[2] + between(rng, -0.1, 0.6)])
    head = rng.uniform((0.2, 0.22, 0.2), (0.32, 0.42, 0.32))
    build.add("body", capsule_between((0, -body[1] * 0.6, body[2] * 0.3), head_at, 0.2, 0.15))
    build.add("head", ellipsoid(head, center=head_at))
    if chance(rng, 0.6):
        snout = head_at + np.array([0.0, -head[1] * 0.9, -0.06])
        build.add("snout", ellipsoid(rng.uniform(0.09, 0.18, size=3), center=snout, detail=8))
    thick, leg = between(rng, 0.07, 0.16), body[2] + between(rng, 0.15, 0.7)
    for y in np.linspace(-body[1] * 0.6, body[1] * 0.6, int(rng.integers(2, 4))):
        x = body[0] * 0.6
        build.add_pair("legs", capsule_between((x, y, 0), (x * 1.15, y, -leg), thick * 1.2, thick))
        build.add_pair(
            "feet",
            ellipsoid(
                (thick * 1.2, thick * 1.7, thick * 0.8),
                center=(x * 1.15, y - thick * 0.4, -leg - thick * 0.5),
                detail=8,
            ),
        )
    ear = head_at + np.array([head[0] * 0.6, 0.05, head[2] * 0.7])
    tip = ear + rng.uniform((0.0, -0.1, 0.1), (0.3, 0.2, 0.5))
    if chance(rng, 0.5):
        build.add_pair("ears", cone_between(ear, tip, 0.09, 0.0, segments=12))
    else:
        build.add_pair("ears", capsule_between(ear, tip, 0.1, 0.06, detail=5))
    eye = head_at + np.array([head[0] * 0.62, -head[1] * 0.65, head[2] * 0.35])
    build.add_pair("eyes", ellipsoid(np.full(3, between(rng, 0.05, 0.09)), center=eye, detail=8))
    knots = [
        [0, body[1] * 0.85, 0.05],
        [0, body[1] + 0.25, 0.2],
        [0, body[1] + between(rng, 0.2, 0.6), between(rng, -0.3, 0.7)],
    ]
    build.add(
        "tail", tube(spline(knots, 14), np.linspace(0.11, between(rng, 0.03, 0.12), 14), sides=10)
    )
    if chance(rng, 0.3):
        build.add("back", _fin(body[1], between(rng, 0.2, 0.5), 0.06).moved(z=body[2] * 0.8))
    return build.shape()


def fish(rng: np.random.Generator) -> Shape:
    """Fish, whales and submarines: a long body with tail, fins and eyes."""
    build = Assembly()
    wide, tall = between(rng, 0.18, 0.4), between(rng, 0.25, 0.55)
    t = np.linspace(0, 1, 26)
    knots = [[0.0], [between(rng, 0.6, 1.0)], [1.0], [between(rng, 0.4, 0.8)], [0.16]]
    radii = np.maximum(spline(knots, 26)[:, 0], 0.0) * np.minimum(1, np.sqrt(t * 6))
    path = np.stack([0 * t, -1 + 2 * t, 0 * t], axis=1)
    build.add("body", tube(path, radii, sides=22).scaled(wide, 1.0, tall))
    build.add("tail", _fin(0.3, tall * 1.1, 0.06, sweep=0.6).moved(y=0.95, z=-0.05))
    build.add("tail", _fin(0.3, tall * 1.1, 0.06, sweep=0.6).scaled(1, 1, -1).moved(y=0.95, z=0.05))
    build.add(
        "fins",
        _fin(between(rng, 0.4, 0.9), tall * between(rng, 0.4, 0.8), 0.05).moved(z=tall * 0.75),
    )
    side = _fin(0.3, between(rng, 0.25, 0.5), 0.05).transformed(
        rotation_about("y", between(rng, 1.6, 2.3))
    )
    build.add_pair("fins", side.moved(x=wide * 0.7, y=-0.2))
    build.add_pair(
        "eyes", ellipsoid(np.full(3, 0.07), center=(wide * 0.72, -0.72, tall * 0.2), detail=8)
    )
    return build.shape()


def bird(rng: np.random.Generator) -> Shape:
    """Birds, ducks and penguins: egg body, head, beak, wings, tail, thin legs."""
    build = Assembly()
    body = rng.uniform((0.32, 0.38, 0.4), (0.48, 0.7, 0.6))
    lean = between(rng, -0.5, 0.5)
    build.add("body", ellipsoid(body, detail=14).transformed(rotation_about("x", lean)))
    head_at = np.array([0.0, -body[1] * 0.7, body[2] + between(rng, 0.0, 0.3)])
    head = between(rng, 0.2, 0.32)
    build.add("body", capsule_between((0, -body[1] * 0.4, body[2] * 0.4), head_at, 0.2, head * 0.6))
    build.add("head", ellipsoid(np.full(3, head), center=head_at))
    beak = head_at + np.array([0.0, -head * 0.8, 0.0])
    build.add(
        "beak",
        cone_between(
            beak, beak + np.array([0, -between(rng, 0.15, 0.4), -0.05]), 0.1, 0.0, segments=12
        ),
    )
    build.add_pair(
        "eyes",
        ellipsoid(
            np.full(3, 0.055),
            center=head_at + np.array([head * 0.75, -head * 0.55, head * 0.3]),
            detail=7,
        ),
    )
    wing = ellipsoid((0.07, between(rng, 0.35, 0.6), between(rng, 0.2, 0.35)), detail=10)
    wing = wing.transformed(rotation_about("y", between(rng, -0.5, 0.1)))
    build.add_pair("wings", wing.moved(x=body[0] * 0.95, y=0.1, z=0.05))
    tail = ellipsoid((0.16, 0.3, 0.05), detail=8).transformed(
        rotation_about("x", between(rng, 0.1, 0.7))
    )
    build.add("tail", tail.moved(y=body[1] + 0.1, z=0.0))
    leg = between(rng, 0.15, 0.5)
    build.add_pair(
        "legs",
        cone_between((0.15, 0, -body[2] * 0.8), (0.17, 0, -body[2] - leg), 0.035, segments=8),
    )
    build.add_pair(
        "legs", ellipsoid((0.11, 0.18, 0.04), center=(0.17, -0.06, -body[2] - leg), detail=7)
    )
    return build.shape()


def figure(rng: np.random.Generator) -> Shape:
    """People and robots: head, trunk, arms, legs, hat or antenna; round or boxy."""
    build, boxy = Assembly(), chance(rng, 0.4)
    wide, tall = between(rng, 0.25, 0.42), between(rng, 0.35, 0.55)
    depth = wide * between(rng, 0.5, 0.85)
    build.add("trunk", _lump(boxy, (wide, depth, tall), (0, 0, 0)))
    head = between(rng, 0.2, 0.36)
    head_z = tall + head + between(rng, 0.0, 0.12)
    build.add("head", _lump(boxy and chance(rng, 0.7), (head, head * 0.95, head), (0, 0, head_z)))
    build.add("neck", cone_between((0, 0, tall * 0.8), (0, 0, head_z), 0.1, segments=12))
    for sign in (1.0, -1.0):
        shoulder = np.array([sign * wide * 1.0, 0.0, tall * 0.75])
        swing = rng.uniform((0.1, -0.4, -0.7), (0.6, 0.2, 0.3)) * np.array([sign, 1, 1])
        if chance(rng, 0.6):
            swing = np.array([sign * 0.25, -0.05, -0.6])
        hand = shoulder + swing
        build.add("arms", capsule_between(shoulder, hand, 0.12, 0.09, detail=5))
        build.add("hands", ellipsoid(np.full(3, 0.12), center=hand, detail=8))
    leg = between(rng, 0.35, 0.8)
    build.add_pair(
        "legs",
        capsule_between(
            (wide * 0.5, 0, -tall * 0.8), (wide * 0.55, 0, -tall - leg), 0.14, 0.11, detail=5
        ),
    )
    build.add_pair(
        "shoes", _lump(boxy, (0.14, 0.22, 0.09), (wide * 0.55, -0.07, -tall - leg - 0.05))
    )
    eye = (head * 0.4, -head * 0.88, head_z + head * 0.15)
    build.add_pair("eyes", ellipsoid(np.full(3, head * 0.2), center=eye, detail=7))
    _headgear(rng, build, head, head_z)
    if chance(rng, 0.4):
        build.add(
            "pack",
            box(
                (wide * 1.3, 0.22, tall * 1.1), center=(0, depth + 0.08, 0.05), bevel=0.05, rounds=2
            ),
        )
    if chance(rng, 0.5):
        build.add(
            "belt",
            cone_between(
                (0, 0, -tall * 0.55), (0, 0, -tall * 0.4), wide * 1.02, segments=24
            ).scaled(1, depth / wide, 1),
        )
    return build.shape()


def _lump(boxy: bool, half: tuple[float, float, float], center: tuple[float, float, float]) -> Part:
    if boxy:
        return box(2 * np.array(half) * 0.92, center=center, bevel=0.06, rounds=2)
    return ellipsoid(half, center=center)


def _headgear(rng: np.random.Generator, build: Assembly, head: float, head_z: float) -> None:
    style = int(rng.integers(4))
    top = head_z + head * 0.7
    if style == 0:
        build.add(
            "hat",
            cone_between(
                (0, 0, top),
                (0, 0, top + between(rng, 0.2, 0.6)),
                head * 0.9,
                head * between(rng, 0.0, 0.8),
                segments=24,
            ),
        )
        build.add(
            "brim", cone_between((0, 0, top - 0.03), (0, 0, top + 0.03), head * 1.4, segments=28)
        )
    elif style == 1:
        build.add_pair(
            "antenna",
            cone_between((head * 0.4, 0, top), (head * 0.8, 0, top + 0.4), 0.025, segments=8),
        )
        build.add_pair(
            "antenna", ellipsoid(np.full(3, 0.07), center=(head * 0.8, 0, top + 0.4), detail=7)
        )
    elif style == 2:
        build.add(
            "hair",
            ellipsoid(
                (head * 1.12, head * 1.1, head * 0.8), center=(0, head * 0.2, head_z + head * 0.4)
            ),
        )


def insect(rng: np.random.Generator) -> Shape:
    """Beetles, spiders and bees: segments, six or eight thin legs, wings, feelers."""
    build = Assembly()
    y = -0.6
    for k in range(int(rng.integers(2, 5))):
        size = rng.uniform((0.18, 0.2, 0.16), (0.45, 0.5, 0.4))
        build.add(f"segment{k % 3}", ellipsoid(size, center=(0, y + size[1] * 0.8, 0)))
        y += size[1] * 1.5
    pairs = int(rng.integers(3, 5))
    for leg in np.linspace(-0.5, min(y - 0.3, 0.6), pairs):
        path = spline(_leg_knots(leg, rng), 14)
        build.add_pair("legs", tube(path, np.linspace(0.05, 0.03, 14), sides=7))
    build.add_pair(
        "feelers",
        tube(
            spline([[0.08, -0.6, 0.1], [0.15, -0.9, 0.35], [0.3, -1.1, 0.3]], 10),
            np.full(10, 0.025),
            sides=6,
        ),
    )
    build.add_pair("eyes", ellipsoid(np.full(3, 0.09), center=(0.14, -0.62, 0.12), detail=8))
    if chance(rng, 0.6):
        wing = ellipsoid((0.3, 0.6, 0.03), detail=10).transformed(
            rotation_about("z", between(rng, 0.2, 0.9))
        )
        build.add_pair(
            "wings", wing.transformed(rotation_about("y", -0.3)).moved(x=0.4, y=0.25, z=0.38)
        )
    return build.shape()


def _leg_knots(y: float, rng: np.random.Generator) -> Array:
    reach = between(rng, 0.6, 0.9)
    lean = 0.5 * y
    return np.array([[0.1, y, 0.0], [reach * 0.6, y + lean * 0.5, 0.3], [reach, y + lean, -0.4]])
