"""Shape families swept along curves: tubes, knots, shells, springs, leaves, flags, extrusions."""

from __future__ import annotations

import numpy as np

from .curves import Waves, between, chance, random_rotation, resampled, spline
from .grids import grid_surface
from .part import Array, Assembly, Part, Shape
from .solids import ellipsoid, extruded, torus, tube


def worm(rng: np.random.Generator) -> Shape:
    """A round tube of changing thickness along a random curve."""
    count = int(rng.integers(4, 7))
    knots = np.cumsum(rng.normal(size=(count, 3)), axis=0)
    path = resampled(spline(knots, 200), int(rng.integers(50, 80)))
    path = path / np.abs(path - path.mean(axis=0)).max()
    radii = spline(rng.uniform(0.08, 0.28, size=(5, 1)), len(path))[:, 0]
    if chance(rng, 0.7):
        radii *= np.minimum(1.0, np.sqrt(np.linspace(0, 1, len(path)) * 8))
        radii *= np.minimum(1.0, np.sqrt(np.linspace(1, 0, len(path)) * 8))
    part = tube(path, radii, sides=2 * int(rng.integers(7, 13)))
    return Shape(parts=(part,), labels=(0,))


def knot(rng: np.random.Generator) -> Shape:
    """Torus knots and wavy rings."""
    p, q = ((2, 3), (3, 2), (2, 5), (3, 4), (1, 3), (1, 5))[int(rng.integers(6))]
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    swing = between(rng, 0.25, 0.45)
    flat = 1 + swing * np.cos(q * t)
    path = np.stack([flat * np.cos(p * t), flat * np.sin(p * t), swing * np.sin(q * t)], axis=1)
    path = resampled(path, 40 * p + 80, closed=True)
    gain = 1 + between(rng, 0, 0.4) * np.sin(
        int(rng.integers(1, 9)) * np.linspace(0, 2 * np.pi, len(path), endpoint=False)
    )
    section = _section(rng) if chance(rng, 0.4) else None
    part = tube(path, between(rng, 0.09, 0.2) * gain, sides=14, closed=True, section=section)
    return Shape(parts=(part,), labels=(0,))


def _section(rng: np.random.Generator) -> Array:
    """A square, triangle, flat band or star as a section of radius about 1."""
    corners = int(rng.integers(3, 6))
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False) + 0.3
    outline = np.stack([np.cos(turn), np.sin(turn) * between(rng, 0.4, 1.0)], axis=1)
    return resampled(outline, 3 * corners, closed=True)


def spring(rng: np.random.Generator) -> Shape:
    """Coils: springs, spiral shells, horns."""
    turns, conical = between(rng, 2.0, 5.0), chance(rng, 0.6)
    t = np.linspace(0, 1, int(30 * turns))
    width = np.exp(-between(rng, 1.0, 2.2) * t) if conical else np.ones_like(t)
    angle = 2 * np.pi * turns * t
    height = between(rng, 0.4, 1.6) * (1 - width if conical else t)
    path = np.stack([width * np.cos(angle), width * np.sin(angle), height], axis=1)
    radii = (between(rng, 0.25, 0.42) if conical else between(rng, 0.08, 0.16)) * width
    if not conical:
        radii = np.minimum(radii, height[-1] / turns * 0.45)
    radii[-1] = 0.0
    part = tube(path, radii, sides=int(rng.integers(8, 14)))
    return Shape(parts=(part,), labels=(0,))


def hoops(rng: np.random.Generator) -> Shape:
    """Tori linked, stacked or nested around a ball: chains, gyroscopes, ring towers."""
    build, style = Assembly(), int(rng.integers(3))
    count = int(rng.integers(2, 5))
    for k in range(count):
        size = 1.0 - 0.2 * k if style != 0 else 0.7
        ring = torus(size, between(rng, 0.07, 0.16), segments=26, sides=10)
        if style == 0:
            turned = (
                ring.transformed(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])) if k % 2 else ring
            )
            build.add(f"ring{k % 2}", turned.moved(x=0.95 * k))
        elif style == 1:
            build.add(f"ring{k}", ring.moved(z=0.3 * k))
        else:
            build.add(f"ring{k}", ring.transformed(random_rotation(rng)))
    if style == 2:
        build.add("core", ellipsoid(np.full(3, between(rng, 0.2, 0.4))))
    return build.shape()


def sheet(rng: np.random.Generator) -> Shape:
    """Thin open surfaces: flags, waves, leaves, saddles, arches; seen from both sides."""
    rows, columns = 30, 30
    u, v = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    height = between(rng, 0.15, 0.5)
    style = int(rng.integers(4))
    aspect = between(rng, 0.5, 1.0)
    x, y = u, aspect * v
    if style == 0:
        waves = Waves(rng, frequency=between(rng, 0.3, 0.7), octaves=2)
        z = height * waves(np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3)).reshape(x.shape)
    elif style == 1:
        y = y * (np.sqrt(np.maximum(1 - x**2, 0)) * between(rng, 0.5, 0.9) + 0.02)
        z = height * (np.abs(v) * 0.6 * (1 - x**2) + 0.5 * x**2)
    elif style == 2:
        z = height * (x**2 * between(rng, -1.5, 1.5) + y**2 * between(rng, -2, 2))
    else:
        arc = between(rng, 1.5, 5.0) * u
        x, z = np.sin(arc) / 2, -np.cos(arc) / 2
    part = grid_surface(np.stack([x, y, z], axis=-1))
    turn = (
        random_rotation(rng) if chance(rng, 0.5) else np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    )
    return Shape(parts=(part.transformed(turn),), labels=(0,))


def badge(rng: np.random.Generator) -> Shape:
    """Thick flat outlines: stars, gears, hearts, arrows, blobs; sometimes in layers."""
    build = Assembly()
    outline = resampled_outline(rng)
    depth = between(rng, 0.12, 0.6)
    build.add("plate", _upright(extruded(outline, depth, bevel=between(rng, 0.01, 0.1), rounds=3)))
    if chance(rng, 0.5):
        inner = between(rng, 0.45, 0.8)
        build.add("inlay", _upright(extruded(outline * inner, depth + 0.12, bevel=0.03)))
    elif chance(rng, 0.4):
        build.add("boss", ellipsoid((0.35, depth * 0.5 + 0.12, 0.35)))
    return build.shape()


def _upright(part: Part) -> Part:
    return part.transformed(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))


def resampled_outline(rng: np.random.Generator) -> Array:
    """A counter-clockwise outline in the unit square, star-shaped, mirror symmetric in x."""
    style = int(rng.integers(6))
    turn = np.linspace(0, 2 * np.pi, 120, endpoint=False) + np.pi / 2
    if style == 0:
        tips = int(rng.integers(3, 9))
        along = (turn - np.pi / 2) * tips / (2 * np.pi) % 1
        radius: Array = 1 - between(rng, 0.2, 0.55) * np.abs(2 * along - 1)
    elif style == 1:
        teeth = 2 * int(rng.integers(4, 9))
        gap = np.cos(teeth * (turn - np.pi / 2)) < 0
        radius = 1 - between(rng, 0.1, 0.25) * gap.astype(np.float64)
    elif style == 2:
        petals = int(rng.integers(3, 8))
        radius = 1 - between(rng, 0.1, 0.35) * (1 - np.abs(np.cos(petals * (turn - np.pi / 2) / 2)))
    elif style == 3:
        s = turn - np.pi / 2
        heart = np.stack(
            [
                -16 * np.sin(s) ** 3,
                13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s),
            ],
            axis=1,
        )
        return resampled(heart / 16.5, 96, closed=True)
    elif style == 4:
        power = between(rng, 0.25, 0.9)
        c, s = np.cos(turn), np.sin(turn)
        shape = np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], axis=1)
        return resampled(shape * np.array([between(rng, 0.5, 1.0), 1.0]), 96, closed=True)
    else:
        knots = rng.uniform(0.45, 1.0, size=int(rng.integers(4, 8)))
        ring_radii = np.concatenate([knots, knots[::-1]])[:, None]
        radius = spline(ring_radii, len(turn), closed=True)[:, 0]
    outline = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    return resampled(outline, 96, closed=True)
