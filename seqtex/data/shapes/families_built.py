"""Shape families of built things: vehicles, aircraft, furniture, houses, towers, machines."""

from __future__ import annotations

import numpy as np

from .curves import between, chance, rotation_about, spline
from .grids import capped, grid_surface
from .part import Assembly, Part, Shape
from .solids import box, cone_between, ellipsoid, extruded, revolved, torus, tube


def car(rng: np.random.Generator) -> Shape:
    """Cars, trucks and buses: body, cabin, windows, wheels, lights, bumpers."""
    build = Assembly()
    wide, length, tall = between(rng, 0.35, 0.5), between(rng, 0.8, 1.1), between(rng, 0.16, 0.35)
    bevel = between(rng, 0.04, 0.14)
    build.add("body", box((2 * wide, 2 * length, 2 * tall), bevel=bevel, rounds=2))
    cabin = between(rng, 0.3, 0.75) * length
    cabin_y, roof = between(rng, -0.35, 0.35) * length, between(rng, 0.2, 0.5)
    house = _tapered(box((1.8 * wide, 2 * cabin, 2 * roof), bevel=0.05), between(rng, 0.6, 1.0))
    build.add("cabin", house.moved(y=cabin_y, z=tall + roof * 0.6))
    glass = _tapered(box((1.84 * wide, 1.5 * cabin, roof * 0.8)), 0.85)
    build.add("windows", glass.moved(y=cabin_y, z=tall + roof * 0.75))
    front = _tapered(box((1.4 * wide, 2.06 * cabin, roof * 0.7)), 0.8)
    build.add("windows", front.moved(y=cabin_y, z=tall + roof * 0.75))
    wheel = between(rng, 0.18, 0.32)
    for y in np.linspace(-0.65, 0.65, int(rng.integers(2, 4))) * length:
        at = (wide * 0.85, y, -tall)
        build.add_pair(
            "tyres", cone_between(at, (wide * 1.15, y, -tall), wheel, segments=22, bevel=0.05)
        )
        build.add_pair("hubs", cone_between(at, (wide * 1.18, y, -tall), wheel * 0.5, segments=16))
    lamp = ellipsoid((0.09, 0.05, 0.07), detail=7)
    build.add_pair(
        "lamps", lamp.moved(wide * 0.7, -length, 0.05), lamp.moved(wide * 0.75, length, 0.05)
    )
    if chance(rng, 0.6):
        for y in (-length, length):
            build.add(
                "bumper", box((2.05 * wide, 0.1, 0.1), center=(0, y, -tall * 0.7), bevel=0.03)
            )
    if chance(rng, 0.35):
        load = box((1.7 * wide, 0.7 * length, between(rng, 0.2, 0.6)), bevel=0.03)
        build.add("load", load.moved(y=0.55 * length, z=tall + 0.15))
    return build.shape()


def _tapered(part: Part, top: float) -> Part:
    """The part's x and y shrunk towards its top."""
    v = part.vertices
    low, high = v[:, 2].min(), v[:, 2].max()
    gain = 1 + (top - 1) * (v[:, 2:] - low) / max(high - low, 1e-9)
    return Part(
        vertices=np.concatenate([v[:, :2] * gain, v[:, 2:]], axis=1),
        faces=part.faces,
        crease=part.crease,
        closed=part.closed,
        corner_uv=part.corner_uv,
        chart=part.chart,
    )


def aircraft(rng: np.random.Generator) -> Shape:
    """Planes: fuselage, wings, tail, engines, cockpit, propeller."""
    build, wide = Assembly(), between(rng, 0.13, 0.26)
    t = np.linspace(0, 1, 30)
    nose = np.minimum(1, np.sqrt(t * between(rng, 4, 12)))
    radii = wide * nose * (1 - 0.75 * (np.maximum(t - 0.6, 0) / 0.4) ** 1.5)
    path = np.stack([0 * t, -1 + 2 * t, 0.08 * np.maximum(t - 0.6, 0)], axis=1)
    build.add("fuselage", tube(path, radii, sides=20))
    span, chord = between(rng, 0.7, 1.2), between(rng, 0.25, 0.5)
    lift = between(rng, -0.1, 0.15)
    build.add_pair("wings", _wing(span, chord, between(rng, -0.1, 0.45)).moved(y=-0.2, z=lift))
    if chance(rng, 0.2):
        build.add_pair("wings", _wing(span, chord, 0.0).moved(y=-0.2, z=lift + 0.35))
    build.add_pair("tail", _wing(span * 0.4, chord * 0.6, 0.15).moved(y=0.8, z=0.05))
    fin = _wing(0.42, chord * 0.8, 0.25).transformed(rotation_about("y", -np.pi / 2))
    build.add("tail", fin.moved(y=0.78, z=0.03))
    if chance(rng, 0.6):
        x, y = span * 0.45, -0.25
        pod = cone_between(
            (x, y - 0.2, lift - 0.08), (x, y + 0.2, lift - 0.08), 0.1, 0.07, segments=16
        )
        build.add_pair("engines", pod)
    else:
        build.add("engines", cone_between((0, -1.08, 0), (0, -0.95, 0), 0.06, 0.1, segments=14))
        for k in range(3):
            blade = box((0.08, 0.02, 0.5), center=(0, -1.04, 0.25), bevel=0.008)
            build.add("blades", blade.transformed(rotation_about("y", 2 * np.pi * k / 3)))
    cockpit = ellipsoid((wide * 0.6, 0.25, wide * 0.6), center=(0, -0.55, wide * 0.75), detail=10)
    build.add("glass", cockpit)
    return build.shape()


def _wing(span: float, chord: float, sweep: float) -> Part:
    """A thin tapered wing from x = 0 to ``span``."""
    t = np.linspace(0, 1, 8)[:, None]
    turn = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    size = chord * (1 - 0.5 * t)
    y = size / 2 * np.cos(turn) + sweep * t
    z = 0.09 * size * np.sin(turn)
    points = np.stack([np.broadcast_to(t * span, y.shape), y, z], axis=-1)
    return capped(
        grid_surface(points, wrap=True), points[0, ::-1], points[-1], crease=60.0
    ).oriented()


def rocket(rng: np.random.Generator) -> Shape:
    """Rockets, space ships and buoys: a turned hull with fins, windows and nozzles."""
    build = Assembly()
    wide = between(rng, 0.25, 0.45)
    knots = [
        [wide * between(rng, 0.5, 1), -1],
        [wide, -0.4],
        [wide * between(rng, 0.7, 1), 0.3],
        [0.02, 1.1],
    ]
    curve = spline(knots, 26)
    curve[:, 0] = np.maximum(curve[:, 0], 0.01)
    curve[-1, 0] = 0.0
    build.add("hull", revolved(np.concatenate([[[0, -1.0]], curve]), segments=32, crease=50.0))
    count = int(rng.integers(3, 6))
    for k in range(count):
        outline = np.array([[0, -0.1], [0.5, -0.35], [0.5, -0.1], [0, between(rng, 0.4, 0.7)]])
        fin = extruded(outline, 0.07, bevel=0.015).transformed(
            np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        )
        build.add(
            "fins",
            fin.moved(x=wide * 0.7, z=-0.8).transformed(
                rotation_about("z", 2 * np.pi * k / count + np.pi / 2)
            ),
        )
    build.add(
        "nozzle", cone_between((0, 0, -1.2), (0, 0, -0.95), wide * 0.6, wide * 0.35, segments=24)
    )
    for z in np.linspace(-0.1, 0.4, int(rng.integers(1, 3))):
        pane = np.array([0.0, -wide * 0.88, z])
        build.add(
            "window",
            cone_between(pane, pane + np.array([0, -0.1, 0]), 0.12, segments=20, bevel=0.02),
        )
        build.add(
            "rim",
            torus(0.13, 0.03, segments=20, sides=8).transformed(
                rotation_about("x", np.pi / 2), pane + np.array([0, -0.08, 0])
            ),
        )
    return build.shape()


def chair(rng: np.random.Generator) -> Shape:
    """Chairs, stools and sofas."""
    build = Assembly()
    wide, deep, thick = between(rng, 0.4, 0.6), between(rng, 0.4, 0.6), between(rng, 0.08, 0.25)
    soft = between(rng, 0.02, 0.1)
    build.add("seat", box((2 * wide, 2 * deep, thick), bevel=soft, rounds=2))
    leg, size = between(rng, 0.3, 0.9), between(rng, 0.05, 0.1)
    for y in (-deep + size, deep - size):
        build.add_pair("legs", _leg(rng, (wide - size, y, -thick / 2), leg, size))
    if chance(rng, 0.85):
        back = between(rng, 0.5, 1.2)
        if chance(rng, 0.5):
            build.add(
                "back",
                box(
                    (2 * wide, 0.14, back), center=(0, deep - 0.05, back / 2), bevel=soft, rounds=2
                ),
            )
        else:
            for x in np.linspace(-wide + 0.08, wide - 0.08, int(rng.integers(3, 6))):
                build.add(
                    "slats", box((0.1, 0.09, back), center=(x, deep - 0.05, back / 2), bevel=0.02)
                )
            build.add(
                "back", box((2 * wide, 0.12, 0.16), center=(0, deep - 0.05, back), bevel=0.04)
            )
    if chance(rng, 0.4):
        build.add_pair(
            "arms",
            box(
                (0.14, 2 * deep, between(rng, 0.2, 0.45)),
                center=(wide, 0, 0.2),
                bevel=soft,
                rounds=2,
            ),
        )
    if chance(rng, 0.4):
        build.add(
            "cushion",
            box(
                (1.7 * wide, 1.6 * deep, 0.16),
                center=(0, -0.05, thick / 2 + 0.05),
                bevel=0.07,
                rounds=3,
            ),
        )
    return build.shape()


def _leg(
    rng: np.random.Generator, top: tuple[float, float, float], length: float, size: float
) -> Part:
    end = (top[0], top[1], top[2] - length)
    if chance(rng, 0.5):
        return cone_between(top, end, size, size * 0.6, segments=12)
    center = (top[0], top[1], top[2] - length / 2)
    return box((1.4 * size, 1.4 * size, length), center=center, bevel=size * 0.2)


def table(rng: np.random.Generator) -> Shape:
    """Tables, desks, shelves and cupboards, with things on them."""
    build = Assembly()
    wide, deep, tall = between(rng, 0.6, 1.0), between(rng, 0.35, 0.7), between(rng, 0.5, 1.1)
    if chance(rng, 0.5):
        if chance(rng, 0.3):
            build.add(
                "top",
                cone_between((0, 0, 0), (0, 0, 0.09), wide, segments=40, bevel=0.02).scaled(
                    1, deep / wide, 1
                ),
            )
        else:
            build.add("top", box((2 * wide, 2 * deep, 0.1), center=(0, 0, 0.05), bevel=0.02))
        for y in (-deep * 0.7, deep * 0.7):
            build.add_pair("legs", _leg(rng, (wide * 0.7, y, 0), tall, 0.08))
    else:
        build.add("frame", box((2 * wide, 2 * deep, tall), center=(0, 0, -tall / 2), bevel=0.03))
        rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        w, h = 2 * wide / columns, tall / rows
        for row in range(rows):
            for column in range(columns):
                x, z = -wide + (column + 0.5) * w, -tall + (row + 0.5) * h
                build.add(
                    "doors",
                    box((w * 0.86, 0.06, h * 0.82), center=(x, -deep - 0.01, z), bevel=0.015),
                )
                build.add(
                    "knobs", ellipsoid(np.full(3, 0.045), center=(x, -deep - 0.07, z), detail=7)
                )
    for k in range(int(rng.integers(0, 4))):
        x, y = between(rng, -0.7, 0.7) * wide, between(rng, -0.6, 0.6) * deep
        size = between(rng, 0.08, 0.2)
        if chance(rng, 0.5):
            build.add(
                f"thing{k}",
                box((2 * size, size, 2.4 * size), center=(x, y, 0.1 + 1.2 * size), bevel=0.02),
            )
        else:
            build.add(
                f"thing{k}",
                ellipsoid((size, size, size * 1.3), center=(x, y, 0.1 + size), detail=9),
            )
    return build.shape()


def house(rng: np.random.Generator) -> Shape:
    """Houses and castles: walls, roof, door, windows, chimney, towers."""
    build = Assembly()
    wide, deep, tall = between(rng, 0.4, 0.7), between(rng, 0.4, 0.8), between(rng, 0.3, 0.8)
    build.add("walls", box((2 * wide, 2 * deep, 2 * tall)))
    ridge = between(rng, 0.3, 0.8)
    if chance(rng, 0.6):
        eave = 1.15
        gable = np.array([[-wide * eave, 0], [wide * eave, 0], [0, ridge]])
        roof = extruded(gable, 2.2 * deep).transformed(
            np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        )
        build.add("roof", roof.moved(z=tall - 0.02))
    else:
        hip = cone_between((0, 0, 0), (0, 0, ridge), 1.6, between(rng, 0.0, 0.6), segments=4)
        hip = hip.transformed(rotation_about("z", np.pi / 4)).scaled(wide, deep, 1)
        build.add("roof", hip.moved(z=tall - 0.02))
    build.add("door", box((0.28, 0.08, 0.5), center=(0, -deep, -tall + 0.25), bevel=0.015))
    for z in np.linspace(-tall + 0.45, tall - 0.2, int(rng.integers(1, 3))):
        pane = box((0.22, 0.07, 0.22), bevel=0.015)
        build.add_pair(
            "windows", pane.moved(wide * 0.62, -deep, z), pane.moved(wide * 0.62, deep, z)
        )
        side = box((0.07, 0.24, 0.22), bevel=0.015)
        build.add_pair("windows", side.moved(wide, -deep * 0.5, z), side.moved(wide, deep * 0.5, z))
    if chance(rng, 0.5):
        build.add(
            "chimney", box((0.16, 0.16, 0.5), center=(wide * 0.5, deep * 0.4, tall + ridge * 0.6))
        )
    if chance(rng, 0.35):
        for y in (-deep, deep):
            top = tall * between(rng, 1.1, 1.7)
            build.add_pair(
                "towers", cone_between((wide, y, -tall), (wide, y, top), 0.2, segments=18)
            )
            build.add_pair(
                "roof", cone_between((wide, y, top), (wide, y, top + 0.4), 0.27, 0.0, segments=18)
            )
    return build.shape()


def machine(rng: np.random.Generator) -> Shape:
    """Stacked and plugged-on boxes, drums, pipes and knobs: engines, radios, robots' innards."""
    build = Assembly()
    size = rng.uniform(0.4, 0.8, size=3)
    build.add("case", box(2 * size, bevel=between(rng, 0.02, 0.15), rounds=2))
    for k in range(int(rng.integers(3, 9))):
        axis, sign = int(rng.integers(3)), 1.0 if chance(rng, 0.5) else -1.0
        at = rng.uniform(-0.7, 0.7, size=3) * size
        at[axis] = sign * size[axis]
        out = np.zeros(3)
        out[axis] = sign * between(rng, 0.08, 0.5)
        kind, group = int(rng.integers(4)), f"extra{k % 4}"
        if kind == 0:
            block = rng.uniform(0.12, 0.45, size=3)
            build.add(group, box(block, center=at + out * 0.3, bevel=0.025))
        elif kind == 1:
            build.add(
                group,
                cone_between(
                    at - out * 0.2, at + out, between(rng, 0.06, 0.25), segments=20, bevel=0.02
                ),
            )
        elif kind == 2:
            build.add(group, ellipsoid(np.full(3, between(rng, 0.08, 0.22)), center=at, detail=9))
        else:
            away = at + rng.uniform(-0.5, 0.5, size=3) * (out == 0)
            path = spline(np.stack([at, at + out * 1.2, away + out * 1.2, away]), 18)
            build.add("pipes", tube(path, np.full(18, between(rng, 0.04, 0.08)), sides=9))
    return build.shape()


def tower(rng: np.random.Generator) -> Shape:
    """Stacks of boxes, drums and balls of all sizes, some turned: totems, skyscrapers, toys."""
    build, level = Assembly(), 0.0
    for k in range(int(rng.integers(3, 7))):
        wide, tall = between(rng, 0.2, 0.6), between(rng, 0.15, 0.6)
        group, kind = f"block{k % 4}", int(rng.integers(4))
        if kind == 0:
            block = box(
                (2 * wide, 2 * wide * between(rng, 0.6, 1), tall), bevel=between(rng, 0.0, 0.06)
            )
            build.add(
                group,
                block.transformed(
                    rotation_about("z", between(rng, 0, 1.5)), (0, 0, level + tall / 2)
                ),
            )
        elif kind == 1:
            build.add(
                group,
                cone_between(
                    (0, 0, level),
                    (0, 0, level + tall),
                    wide,
                    wide * between(rng, 0.5, 1.1),
                    segments=28,
                    bevel=0.03,
                ),
            )
        elif kind == 2:
            build.add(group, ellipsoid((wide, wide, tall / 2), center=(0, 0, level + tall / 2)))
        else:
            build.add(
                group, torus(wide, tall / 2.2, segments=28, sides=12).moved(z=level + tall / 2)
            )
        level += tall * 0.95
    return build.shape()
