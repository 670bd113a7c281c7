"""Shape families of one smooth body: lathes, superquadrics, tori, displaced balls, polyhedra."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull

from .curves import Waves, between, chance, random_rotation, spline, unit
from .grids import box_charts, capped, grid_surface
from .part import Array, Part, Shape
from .solids import cube_sphere, revolved


def lathe(rng: np.random.Generator) -> Shape:
    """A spline profile turned about z: vases, spindles, bells, pawns; some fluted or faceted."""
    count = int(rng.integers(4, 8))
    radius = rng.uniform(0.15, 1.0, size=count)
    height = np.sort(rng.uniform(-1, 1, size=count)) * between(rng, 0.6, 1.8)
    radius[0] *= between(rng, 0.3, 1.0)
    curve = spline(np.stack([radius, height], axis=1), int(rng.integers(18, 34)))
    curve[:, 0] = np.maximum(curve[:, 0], 0.06)
    if chance(rng, 0.4):
        curve[-1, 0] = 0.0
    profile = np.concatenate([[[0.0, curve[0, 1]]], curve])
    if curve[-1, 0] > 0:
        profile = np.concatenate([profile, _hollow(rng, curve)])
    segments = int(rng.integers(5, 9)) if chance(rng, 0.15) else int(rng.integers(24, 44))
    part = revolved(profile, segments=segments, crease=45.0)
    if chance(rng, 0.3):
        part = _fluted(rng, part)
    return Shape(parts=(part,), labels=(0,))


def _hollow(rng: np.random.Generator, curve: Array) -> Array:
    """Inner wall from the rim down to the axis, or a flat lid."""
    if chance(rng, 0.35):
        return np.array([[0.0, curve[-1, 1]]])
    wall = between(rng, 0.04, 0.1)
    keep = int(len(curve) * between(rng, 0.1, 0.7))
    inner = curve[::-1][: len(curve) - keep] - np.array([wall, 0.0])
    inner[:, 0] = np.maximum(inner[:, 0], 0.02)
    return np.concatenate([inner, [[0.0, inner[-1, 1]]]])


def _fluted(rng: np.random.Generator, part: Part) -> Part:
    """Ribs along the side, straight or twisted."""
    x, y, z = part.vertices.T
    ribs, depth = int(rng.integers(4, 13)), between(rng, 0.04, 0.15)
    twist = between(rng, -3, 3) if chance(rng, 0.5) else 0.0
    gain = 1 + depth * np.cos(ribs * np.arctan2(y, x) + twist * z)
    vertices = np.stack([x * gain, y * gain, z], axis=1)
    return Part(
        vertices=vertices,
        faces=part.faces,
        crease=180.0,
        closed=part.closed,
        corner_uv=part.corner_uv,
        chart=part.chart,
    )


def superquadric(rng: np.random.Generator) -> Shape:
    """Superellipsoids from pillows over balls to stars."""
    e1, e2 = np.exp(rng.uniform(np.log(0.2), np.log(2.4), size=2))
    rows, columns = int(rng.integers(20, 34)), 2 * int(rng.integers(16, 26))
    polar = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    flat = _power(np.cos(polar), e1)
    points = np.stack(
        [
            flat * _power(np.cos(turn), e2),
            flat * _power(np.sin(turn), e2),
            np.broadcast_to(_power(np.sin(polar), e1), (rows, columns)),
        ],
        axis=-1,
    )
    part = grid_surface(points, wrap=True, pole_start=True, pole_end=True, crease=50.0)
    return Shape(parts=(part,), labels=(0,))


def _power(values: Array, exponent: float) -> Array:
    return np.asarray(np.sign(values) * np.abs(values) ** exponent)


def supertorus(rng: np.random.Generator) -> Shape:
    """Tori with square to pinched sections and outlines."""
    e1, e2 = np.exp(rng.uniform(np.log(0.3), np.log(1.8), size=2))
    hole = between(rng, 1.3, 3.5)
    rows, columns = int(rng.integers(16, 26)), 2 * int(rng.integers(18, 28))
    inner = np.linspace(0, 2 * np.pi, rows, endpoint=False)[:, None]
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    flat = hole + _power(np.cos(inner), e1)
    lobes = 1 + between(rng, 0, 0.25) * np.cos(int(rng.integers(2, 9)) * turn) * chance(rng, 0.4)
    points = np.stack(
        [
            flat * _power(np.cos(turn), e2) * lobes,
            flat * _power(np.sin(turn), e2) * lobes,
            np.broadcast_to(_power(np.sin(inner), e1), (rows, columns)) * between(rng, 0.7, 1.6),
        ],
        axis=-1,
    )
    part = grid_surface(points, wrap=True, wrap_rows=True, crease=50.0).oriented()
    return Shape(parts=(part,), labels=(0,))


def displaced(rng: np.random.Generator) -> Shape:
    """Balls pushed in and out by smooth noise, ridges or spikes: rocks, blobs, fruit, stars."""
    ball = cube_sphere(int(rng.integers(14, 24)))
    points = ball.vertices
    symmetric = chance(rng, 0.4)
    probe = np.concatenate([np.abs(points[:, :1]), points[:, 1:]], axis=1) if symmetric else points
    style = int(rng.integers(4))
    low = Waves(rng, frequency=between(rng, 0.25, 0.5), octaves=2)(probe)
    if style == 0:
        gain = 1 + 0.35 * low
    elif style == 1:
        ridge = 1 - np.abs(Waves(rng, frequency=between(rng, 0.5, 1.0), octaves=2)(probe))
        gain = 1 + 0.2 * low + 0.25 * ridge
    elif style == 2:
        gain = 1 + 0.15 * low + 0.12 * Waves(rng, frequency=1.2, octaves=3)(probe)
    else:
        gain = 1 + _spikes(rng, probe)
    vertices = points * np.maximum(gain, 0.25)[:, None]
    part = Part(
        vertices=vertices,
        faces=ball.faces,
        crease=between(rng, 15, 30) if chance(rng, 0.15) else 180.0,
        corner_uv=ball.corner_uv,
        chart=ball.chart,
    )
    return Shape(parts=(part,), labels=(0,))


def _spikes(rng: np.random.Generator, directions: Array) -> Array:
    """Bumps around random directions."""
    tips = unit(rng.normal(size=(int(rng.integers(5, 24)), 3)))
    sharp = between(rng, 8, 40)
    height = between(rng, 0.3, 0.9) * rng.uniform(0.6, 1.0, size=len(tips))
    bumps = np.exp(sharp * (unit(directions) @ tips.T - 1)) * height
    return np.asarray(bumps.max(axis=1))


def polyhedron(rng: np.random.Generator) -> Shape:
    """Convex hulls of a few points: gems, crystals, stones; hard edges."""
    count = int(rng.integers(7, 40))
    points = unit(rng.normal(size=(count, 3))) * rng.uniform(0.8, 1.0, size=(count, 1))
    symmetric = chance(rng, 0.5)
    if symmetric:
        points = np.concatenate([points, points * np.array([-1.0, 1.0, 1.0])])
    hull = ConvexHull(points)
    used, faces = np.unique(hull.simplices, return_inverse=True)
    faces = faces.reshape(-1, 3).astype(np.int64)
    vertices = points[used]
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = np.einsum("ij,ij->i", normals, corners.mean(axis=1)) < 0
    faces[inward] = faces[inward][:, ::-1]
    part = Part(vertices=vertices, faces=faces, crease=between(rng, 5, 25))
    part = subdivided(part, levels=3 if len(faces) < 32 else 2)
    return Shape(parts=(box_charts(part),), labels=(0,))


def subdivided(part: Part, *, levels: int) -> Part:
    """Every triangle cut into four, ``levels`` times; charts are dropped."""
    vertices, faces = part.vertices, part.faces
    for _ in range(levels):
        edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1), axis=-1)
        pairs, inverse = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True)
        middle = inverse.reshape(-1, 3) + len(vertices)
        vertices = np.concatenate([vertices, vertices[pairs].mean(axis=1)])
        a, b, c = faces.T
        ab, bc, ca = middle.T
        faces = np.concatenate(
            [
                np.stack([a, ab, ca], axis=1),
                np.stack([ab, b, bc], axis=1),
                np.stack([ca, bc, c], axis=1),
                np.stack([ab, bc, ca], axis=1),
            ]
        )
    return Part(vertices=vertices, faces=faces, crease=part.crease, closed=part.closed)


def spindle(rng: np.random.Generator) -> Shape:
    """Stacked discs, beads and cones turned about z: chess men, finials, spinning tops."""
    rows: list[list[float]] = [[0.0, 0.0]]
    height = 0.0
    for _ in range(int(rng.integers(3, 8))):
        kind, radius, step = int(rng.integers(4)), between(rng, 0.15, 0.8), between(rng, 0.12, 0.6)
        if kind == 0:
            rows += [[radius, height], [radius, height + step]]
        elif kind == 1:
            turn = np.linspace(0.15, np.pi - 0.15, 9)
            rows += [[radius * np.sin(t), height + step * (1 - np.cos(t)) / 2] for t in turn]
        elif kind == 2:
            rows += [[radius, height], [radius * between(rng, 0.2, 0.8), height + step]]
        else:
            curve = np.linspace(0, 1, 7)
            waist = between(rng, 0.3, 0.8)
            rows += [
                [radius * (1 - waist * np.sin(np.pi * t)) + 0.02, height + step * t] for t in curve
            ]
        height += step
    rows.append([0.0, height + (between(rng, 0.1, 0.4) if chance(rng, 0.5) else 0.0)])
    part = revolved(np.array(rows), segments=2 * int(rng.integers(12, 22)), crease=35.0)
    return Shape(parts=(part,), labels=(0,))


def loft(rng: np.random.Generator) -> Shape:
    """Superellipse sections of changing size and roundness along a bent spine."""
    stations, columns = int(rng.integers(20, 34)), 2 * int(rng.integers(14, 22))
    count = int(rng.integers(3, 6))
    knots = rng.uniform(0.25, 1.0, size=(count, 2)) * np.array([1.0, between(rng, 0.4, 1.2)])
    size = np.maximum(spline(knots, stations), 0.08)
    power = np.clip(spline(rng.uniform(0.3, 1.4, size=(count, 1)), stations), 0.2, 1.6)
    bend = np.stack([np.zeros(count), np.sort(rng.uniform(-1.4, 1.4, count))], axis=1)
    bend[:, 0] = rng.uniform(-0.3, 0.3, size=count)
    spine = spline(bend, stations)
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    points = np.stack(
        [
            size[:, :1] * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power,
            spine[:, 1:] + 0 * turn,
            size[:, 1:] * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power + spine[:, :1],
        ],
        axis=-1,
    )
    side = grid_surface(points, wrap=True)
    part = capped(side, points[0, ::-1], points[-1], crease=50.0).oriented()
    if chance(rng, 0.3):
        part = part.transformed(random_rotation(rng))
    return Shape(parts=(part,), labels=(0,))
