"""Ready-made solids: ellipsoids, boxes, cylinders, cones, tori, tubes, extrusions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .curves import frames_along, rotation_from_z, unit
from .grids import box_charts, capped, grid_surface
from .part import Array, Indices, Part

Vector = npt.ArrayLike


def revolved(
    profile: Array, *, segments: int = 24, crease: float = 180.0, angles: Array | None = None
) -> Part:
    """A surface of revolution about z.

    Args:
        profile: radius and height ``[R, 2]`` from bottom to top, outside seen from +radius. A first
            or last radius of 0 makes a pole; other ends stay open.
        segments: around.
        crease: see :class:`Part`.
        angles: other angles than even ones, ``[C]``.
    """
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False) if angles is None else angles
    radius, height = profile[:, :1], np.broadcast_to(profile[:, 1:], (len(profile), len(turn)))
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=-1)
    start, end = bool(profile[0, 0] < 1e-9), bool(profile[-1, 0] < 1e-9)
    part = grid_surface(points, wrap=True, pole_start=start, pole_end=end, crease=crease)
    if start and _is_lid(profile[:3]):
        part = _with_disc(part, row=0, chart=1)
    if end and _is_lid(profile[:-4:-1]):
        part = _with_disc(part, row=len(profile) - 2, chart=2)
    return part


def _is_lid(profile: Array) -> bool:
    """Whether the profile leaves the axis flat and then turns a corner."""
    if len(profile) < 3:
        return False
    first, second = unit(np.diff(profile, axis=0))
    return bool(abs(first[1]) < 0.3 and first @ second < 0.8)


def _with_disc(part: Part, *, row: int, chart: int) -> Part:
    """The triangles of one row around a pole laid out as a disc, a chart of its own."""
    assert part.corner_uv is not None, "a surface of revolution has natural charts"
    assert part.chart is not None, "corner_uv and chart come together"
    mine = (part.corner_uv[..., 1].min(axis=1) >= row) & (
        part.corner_uv[..., 1].max(axis=1) <= row + 1
    )
    side = np.array([-1.0 if row == 0 else 1.0, 1.0])
    disc = part.vertices[part.faces][..., :2] * side
    return replace(
        part,
        corner_uv=np.where(mine[:, None, None], disc, part.corner_uv),
        chart=np.where(mine, chart, part.chart),
    )


def ellipsoid(radii: Vector = (1, 1, 1), *, center: Vector = (0, 0, 0), detail: int = 12) -> Part:
    """An ellipsoid with ``detail`` rings."""
    polar = np.linspace(-np.pi / 2, np.pi / 2, detail + 1)
    profile = np.stack([np.cos(polar), np.sin(polar)], axis=1)
    profile[[0, -1], 0] = 0.0
    ball = revolved(profile, segments=2 * detail)
    return ball.transformed(np.diag(np.asarray(radii, dtype=np.float64)), center)


def cone_between(
    start: Vector,
    end: Vector,
    radius: float,
    end_radius: float | None = None,
    *,
    segments: int = 16,
    bevel: float = 0.0,
) -> Part:
    """A capped cylinder or truncated cone from ``start`` to ``end``; ``end_radius`` 0 is a cone."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(b - a))
    top = radius if end_radius is None else end_radius
    edge = min(bevel, radius * 0.9, length * 0.45)
    top_edge = min(edge, top * 0.9)
    rows = [[0.0, 0.0], [radius - edge, 0.0]]
    rows += [[radius, edge]] if edge > 0 else []
    rows += [[top, length - top_edge]] if top_edge > 0 else []
    rows += [[top - top_edge, length]] if top > 0 else []
    rows += [[0.0, length]]
    return revolved(np.array(rows), segments=segments, crease=35.0).transformed(
        rotation_from_z(b - a), a
    )


def capsule_between(
    start: Vector, end: Vector, radius: float, end_radius: float | None = None, *, detail: int = 6
) -> Part:
    """A rod with round ends."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(b - a))
    top = radius if end_radius is None else end_radius
    polar = np.linspace(0, np.pi / 2, detail)
    low = np.stack([radius * np.sin(polar), -radius * np.cos(polar)], axis=1)
    high = np.stack([top * np.cos(polar), length + top * np.sin(polar)], axis=1)
    profile = np.concatenate([low, high])
    profile[[0, -1], 0] = 0.0
    return revolved(profile, segments=3 * detail).transformed(rotation_from_z(b - a), a)


def torus(radius: float, thickness: float, *, segments: int = 28, sides: int = 12) -> Part:
    """A torus about z."""
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    path = np.stack([radius * np.cos(turn), radius * np.sin(turn), 0 * turn], axis=1)
    return tube(path, np.full(segments, thickness), sides=sides, closed=True)


def tube(
    path: Array,
    radii: Array,
    *,
    sides: int = 12,
    closed: bool = False,
    section: Array | None = None,
    crease: float = 60.0,
) -> Part:
    """A section swept along a path.

    Args:
        path: ``[K, 3]``.
        radii: scale of the section at each point, ``[K]``; an end of 0 is a point, other ends are
            capped.
        sides: of the round section.
        closed: the path is a loop.
        section: another section, counter-clockwise ``[S, 2]``.
        crease: see :class:`Part`.
    """
    if section is None:
        turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        section = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    frames = frames_along(path, closed=closed)
    offsets = np.einsum("sa,kax->ksx", section, frames[:, :2])
    points = path[:, None] + radii[:, None, None] * offsets
    if closed:
        return grid_surface(points, wrap=True, wrap_rows=True, crease=crease).oriented()
    start, end = bool(radii[0] < 1e-9), bool(radii[-1] < 1e-9)
    side = grid_surface(points, wrap=True, pole_start=start, pole_end=end, crease=crease)
    rings = ([] if start else [points[0, ::-1]]) + ([] if end else [points[-1]])
    return capped(side, *rings, crease=crease).oriented()


def box(size: Vector, *, center: Vector = (0, 0, 0), bevel: float = 0.0, rounds: int = 1) -> Part:
    """A box with beveled (``rounds`` 1) or rounded edges; its faces are flat and hard."""
    half = np.asarray(size, dtype=np.float64) / 2
    edge = min(bevel, 0.49 * 2 * float(half.min()))
    middle = np.asarray(center, dtype=np.float64)
    if edge <= 0:
        lattice, faces = _cube_lattice(1)
        return box_charts(
            Part(vertices=lattice * half + middle, faces=faces, crease=30.0, closed=True)
        )
    lattice, faces = _cube_lattice(2 * rounds + 1)
    rank = np.round((lattice + 1) / 2 * (2 * rounds + 1)).astype(np.int64)
    steps = np.concatenate([np.linspace(-1, 0, rounds + 1), np.linspace(0, 1, rounds + 1)])
    local = steps[rank]
    core = np.sign(lattice) * (half - edge)
    vertices = core + edge * unit(local)
    crease = 30.0 if rounds == 1 else 180.0
    return box_charts(Part(vertices=vertices + middle, faces=faces, crease=crease, closed=True))


def cube_sphere(count: int) -> Part:
    """A unit sphere from a cube with ``count`` cells along each edge; six charts."""
    lattice, faces = _cube_lattice(count)
    warped = np.tan(lattice * (np.pi / 4))
    flat = box_charts(Part(vertices=lattice, faces=faces))
    return Part(vertices=unit(warped), faces=faces, corner_uv=flat.corner_uv, chart=flat.chart)


def _cube_lattice(count: int) -> tuple[Array, Indices]:
    """Vertices on the surface of the cube [-1, 1]^3 and their triangles, outside outside."""
    line = np.linspace(-1.0, 1.0, count + 1)
    u, v = (side.ravel() for side in np.meshgrid(line, line, indexing="ij"))
    one = np.ones_like(u)
    i, j = (side.ravel() for side in np.meshgrid(range(count), range(count), indexing="ij"))
    a = i * (count + 1) + j
    b, c, d = a + count + 1, a + count + 2, a + 1
    quads = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    points: list[Array] = []
    faces: list[Indices] = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            side = np.roll(np.stack([sign * one, u, v], axis=1), axis, axis=1)
            faces.append((quads if sign > 0 else quads[:, ::-1]) + len(u) * len(points))
            points.append(side)
    everything = np.concatenate(points)
    keys = np.round((everything + 1) * count).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return everything[first], inverse.reshape(-1)[np.concatenate(faces)].astype(np.int64)


def extruded(outline: Array, depth: float, *, bevel: float = 0.0, rounds: int = 1) -> Part:
    """A flat outline ``[K, 2]`` (counter-clockwise, star-shaped about its mean) made thick along z.

    The bevel shrinks the outline towards its mean near both faces.
    """
    center = outline.mean(axis=0)
    turn = np.linspace(0, np.pi / 2, rounds + 1) if bevel > 0 else np.array([np.pi / 2])
    inset = bevel * (1 - np.sin(turn))
    low = -depth / 2 + bevel * (1 - np.cos(turn)) if bevel > 0 else np.array([-depth / 2])
    heights = np.concatenate([low, -low[::-1]])
    insets = np.concatenate([inset, inset[::-1]])
    reach = float(np.linalg.norm(outline - center, axis=1).max())
    rings = center + (outline - center) * (1 - insets / max(reach, 1e-9))[:, None, None]
    z = np.broadcast_to(heights[:, None, None], (*rings.shape[:2], 1))
    points = np.concatenate([rings, z], axis=-1)
    side = grid_surface(points, wrap=True)
    return capped(side, points[0, ::-1], points[-1], crease=35.0).oriented()
