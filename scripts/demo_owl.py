"""The demo object: an owl with a scarf on a branch, built from lathes and swept tubes.

World z up, facing -y, about 2 units tall. Every part is a closed surface; its colour is a function
of the position, so that a reference picture or a texture of any size can be made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EYES = np.array([[-0.205, -0.435, 1.56], [0.205, -0.435, 1.56]])
GAZE = np.array([[-0.16, -1.0, 0.02], [0.16, -1.0, 0.02]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A closed piece of the object.

    Args:
        name: what it is, also the name of its glTF node.
        kind: which colours it has.
        vertices: ``[V, 3]``.
        faces: ``[T, 3]``, counter-clockwise from outside.
    """

    name: str
    kind: str
    vertices: Array
    faces: npt.NDArray[np.int64]


def build_owl() -> list[Part]:
    """All parts of the owl."""
    parts = [
        Part(name="body", kind="body", **_ball(_body, 24, 36)),
        Part(name="head", kind="head", **_ball(_head, 20, 34)),
        Part(name="tail", kind="wing", **_ball(_tail, 10, 16)),
        Part(name="beak", kind="horn", **_tube(*_beak_path(), 12)),
        Part(name="scarf", kind="scarf", **_ring(*_scarf_path(), 10)),
        Part(name="scarf_end", kind="scarf_end", **_ball(_scarf_end, 14, 14)),
        Part(name="branch", kind="bark", **_tube(*_branch_path(), 13)),
        Part(name="twig", kind="bark", **_tube(*_twig_path(), 8)),
        Part(name="leaf", kind="leaf", **_ball(_leaf, 10, 14)),
    ]
    for side, label in ((-1.0, "right"), (1.0, "left")):
        parts += _paired_parts(side, label)
    return [_outward(part) for part in parts]


def _paired_parts(side: float, label: str) -> list[Part]:
    index = 0 if side < 0 else 1
    mirror = np.array([side, 1.0, 1.0])
    parts = [
        Part(name=f"wing_{label}", kind="wing", **_ball(lambda d: _wing(d) * mirror, 18, 22)),
        Part(name=f"disc_{label}", kind="disc", **_ball(lambda d: _disc(d, index), 10, 22)),
        Part(name=f"eye_{label}", kind="eye", **_ball(lambda d: EYES[index] + 0.118 * d, 12, 18)),
        Part(name=f"tuft_{label}", kind="tuft", **_tube(*_tuft_path(mirror), 12)),
    ]
    for number, shift in enumerate((-0.1, 0.0, 0.1)):
        path, radii = _toe_path(side * 0.25 + shift, 0.6 * shift)
        parts.append(Part(name=f"toe_{label}_{number}", kind="horn", **_tube(path, radii, 8)))
    return parts


def _outward(part: Part) -> Part:
    """The part with its faces turned outwards."""
    corners = part.vertices[part.faces]
    volume = np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    faces = part.faces if volume > 0 else part.faces[:, [0, 2, 1]]
    return Part(name=part.name, kind=part.kind, vertices=part.vertices, faces=faces)


# ---- shapes: functions of a direction on the unit sphere ------------------------------------


def _body(d: Array) -> Array:
    width = 0.60 * (1.0 - 0.16 * d[:, 2])
    belly = -0.07 * np.exp(-((d[:, 2] + 0.25) ** 2) / 0.25) * (d[:, 1] < 0) * d[:, 1] ** 2
    return np.stack(
        [width * d[:, 0], 0.54 * (1 - 0.1 * d[:, 2]) * d[:, 1] + belly, 0.76 + 0.78 * d[:, 2]],
        axis=1,
    )


def _head(d: Array) -> Array:
    brow = 0.02 * np.exp(-((np.abs(d[:, 0]) - 0.5) ** 2) / 0.06) * np.clip(d[:, 2], 0, 1)
    return np.stack(
        [0.56 * d[:, 0], -0.03 + 0.47 * d[:, 1], 1.52 + (0.44 + brow) * d[:, 2]], axis=1
    )


def _wing(d: Array) -> Array:
    drop = np.clip(-d[:, 2], 0, 1)
    thick = 0.13 * (1 - 0.5 * drop)
    x = 0.555 + thick * d[:, 0] - 0.10 * drop**2 - 0.05 * np.clip(d[:, 2], 0, 1) ** 2
    y = 0.08 + 0.34 * (1 - 0.55 * drop**1.5) * d[:, 1] + 0.24 * drop**2
    return np.stack([x, y, 0.80 + 0.60 * d[:, 2]], axis=1)


def _tail(d: Array) -> Array:
    spread = 0.20 + 0.10 * np.clip(-d[:, 2], 0, 1)
    x, y, z = spread * d[:, 0], 0.07 * d[:, 1], 0.42 * d[:, 2]
    tilt = np.radians(28)
    return np.stack(
        [x, 0.52 - np.sin(tilt) * z + np.cos(tilt) * y, 0.16 + np.cos(tilt) * z + np.sin(tilt) * y],
        axis=1,
    )


def _disc(d: Array, index: int) -> Array:
    forward = _unit(GAZE[index])
    across = _unit(np.cross(forward, [0.0, 0.0, 1.0]))
    up = np.cross(across, forward)
    rim = 1.0 - 0.35 * np.exp(-(d[:, 0] ** 2 + d[:, 2] ** 2) / 0.18)
    shape = 0.245 * d[:, :1] * across + 0.255 * d[:, 2:] * up
    depth = 0.075 * rim * np.sign(-d[:, 1]) * np.abs(d[:, 1]) ** 0.7
    return np.asarray(EYES[index] + 0.045 * -forward + shape + depth[:, None] * forward)


def _scarf_end(d: Array) -> Array:
    length = np.clip(0.5 - 0.5 * d[:, 2], 0, 1)
    x = 0.25 + (0.09 + 0.03 * length) * np.sign(d[:, 0]) * np.abs(d[:, 0]) ** 0.6 + 0.05 * length
    y = -0.525 + 0.035 * d[:, 1] - 0.025 * np.sin(np.pi * length) - 0.04 * length
    return np.stack([x, y, 0.98 + 0.24 * d[:, 2]], axis=1)


def _leaf(d: Array) -> Array:
    pointed = 0.10 * (1 - np.abs(d[:, 0]) ** 3)
    x = 0.985 + 0.19 * d[:, 0]
    z = 0.20 + 0.012 * d[:, 2] + 0.10 * d[:, 0] - 0.06 * d[:, 0] ** 2
    return np.stack([x, -0.10 + pointed * d[:, 1], z + 0.12 * d[:, 1] ** 2 * pointed], axis=1)


# ---- paths: centre line and radius of each ring ----------------------------------------------


def _beak_path() -> tuple[Array, Array]:
    t = np.linspace(0, 1, 9)
    path = np.stack([0 * t, -0.44 - 0.17 * np.sin(1.9 * t), 1.50 - 0.04 * t - 0.19 * t**2], axis=1)
    radii = np.stack([0.085 * (1 - t**1.6) + 0.006, 0.075 * (1 - t**1.4) + 0.006], axis=1)
    return path, radii


def _tuft_path(mirror: Array) -> tuple[Array, Array]:
    t = np.linspace(0, 1, 8)
    x = 0.27 + 0.14 * t + 0.05 * t**2
    path = np.stack([x, -0.10 + 0.08 * t, 1.74 + 0.40 * t - 0.04 * t**2], axis=1) * mirror
    radius = 0.135 * (1 - t) ** 0.85 + 0.006
    return path, np.stack([radius, 0.75 * radius], axis=1)


def _toe_path(x: float, splay: float) -> tuple[Array, Array]:
    t = np.linspace(0, 1, 8)
    angle = np.radians(70 - 175 * t)
    reach = 0.155 + 0.012 * np.sin(np.pi * t)
    path = np.stack(
        [x + splay * t, -0.03 - reach * np.cos(angle), -0.13 + reach * np.sin(angle)], axis=1
    )
    radius = 0.052 * (1 - t**2.5) + 0.008
    return path, np.stack([radius, radius], axis=1)


def _branch_path() -> tuple[Array, Array]:
    t = np.linspace(0, 1, 26)
    path = np.stack(
        [-1.05 + 2.1 * t, -0.03 + 0.03 * np.sin(7 * t), -0.13 + 0.025 * np.sin(5 * t + 1)], axis=1
    )
    radius = (0.135 - 0.03 * t) * (1 + 0.06 * np.sin(23 * t) + 0.05 * np.sin(41 * t + 2))
    return path, np.stack([radius, radius * 0.95], axis=1)


def _twig_path() -> tuple[Array, Array]:
    t = np.linspace(0, 1, 8)
    path = np.stack([0.60 + 0.26 * t, -0.05 - 0.05 * t, -0.08 + 0.22 * t**0.8], axis=1)
    radius = 0.038 - 0.018 * t
    return path, np.stack([radius, radius], axis=1)


def _scarf_path() -> tuple[Array, Array]:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    path = np.stack(
        [0.475 * np.cos(angle), -0.03 + 0.43 * np.sin(angle), 1.215 + 0.02 * np.sin(3 * angle)],
        axis=1,
    )
    radius = 0.092 + 0.008 * np.sin(9 * angle)
    return path, np.stack([radius, 1.1 * radius], axis=1)


# ---- meshing ---------------------------------------------------------------------------------


def _unit(vectors: npt.ArrayLike) -> Array:
    array = np.asarray(vectors, dtype=np.float64)
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True))


def _ball(shape: object, rows: int, columns: int) -> dict[str, npt.NDArray[np.generic]]:
    """A sphere of directions, moved by ``shape``; rows run from the top to the bottom."""
    polar = np.linspace(0, np.pi, rows + 1)[1:-1]
    around = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    sine, cosine = np.sin(polar)[:, None], np.cos(polar)[:, None]
    ring = np.stack(
        np.broadcast_arrays(sine * np.cos(around), sine * np.sin(around), cosine), axis=-1
    )
    directions = np.concatenate([[[0, 0, 1.0]], ring.reshape(-1, 3), [[0, 0, -1.0]]])
    assert callable(shape)
    return {"vertices": shape(directions), "faces": _strip_faces(rows - 1, columns)}


def _tube(path: Array, radii: Array, sides: int) -> dict[str, npt.NDArray[np.generic]]:
    """A tube along a path, closed by a point at each end; ``radii`` has two per ring."""
    rings = _rings(path, radii, sides, closed=False)
    vertices = np.concatenate([path[:1], rings.reshape(-1, 3), path[-1:]])
    return {"vertices": vertices, "faces": _strip_faces(len(path), sides)}


def _ring(path: Array, radii: Array, sides: int) -> dict[str, npt.NDArray[np.generic]]:
    """A tube along a closed path."""
    rings = _rings(path, radii, sides, closed=True)
    row, column = np.meshgrid(np.arange(len(path)), np.arange(sides), indexing="ij")
    ahead, beside = (row + 1) % len(path), (column + 1) % sides
    a, b = row * sides + column, row * sides + beside
    c, d = ahead * sides + beside, ahead * sides + column
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    return {"vertices": rings.reshape(-1, 3), "faces": faces}


def _rings(path: Array, radii: Array, sides: int, *, closed: bool) -> Array:
    if closed:
        ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    else:
        ahead = np.gradient(path, axis=0)
    ahead = _unit(ahead)
    side = _carried_along(ahead)
    up = np.cross(side, ahead)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    across = radii[:, 0, None, None] * np.cos(angle) * side[:, None]
    return path[:, None] + across + radii[:, 1, None, None] * np.sin(angle) * up[:, None]


def _carried_along(ahead: Array) -> Array:
    """A direction across each ring that turns as little as possible along the path, ``[N, 3]``."""
    start = np.array([1.0, 0.0, 0.0]) if abs(ahead[0, 0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    sides = []
    for direction in ahead:
        start = _unit(start - (start @ direction) * direction)
        sides.append(start)
    return np.stack(sides)


def _strip_faces(rows: int, columns: int) -> npt.NDArray[np.int64]:
    """Faces of rings of vertices between two poles: vertex 0 and the last one."""
    first = 1 + np.arange(columns)
    after = 1 + (np.arange(columns) + 1) % columns
    top = np.stack([np.zeros(columns, np.int64), first, after], axis=1)
    shift = (np.arange(rows - 1) * columns)[:, None]
    a, b = first + shift, after + shift
    quads = [np.stack([a, a + columns, b + columns], -1), np.stack([a, b + columns, b], -1)]
    base = (rows - 1) * columns
    last = np.full(columns, rows * columns + 1)
    bottom = np.stack([first + base, last, after + base], axis=1)
    return np.concatenate([top, *(quad.reshape(-1, 3) for quad in quads), bottom])
