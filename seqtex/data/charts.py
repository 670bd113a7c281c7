"""UV charts of procedural meshes, in the styles that real assets show."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .packing import pack_rectangles
from .shapes.curves import between, chance
from .shapes.part import Array, Indices, Part

ChartStyle = Literal["natural", "box", "xatlas", "xatlas_small", "xatlas_large"]


def draw_chart_style(rng: np.random.Generator, part: Part) -> ChartStyle:
    """A random style that ``part`` allows."""
    if part.corner_uv is not None and chance(rng, 0.45):
        return "natural"
    if chance(rng, 0.2):
        return "box"
    styles: tuple[ChartStyle, ...] = ("xatlas", "xatlas", "xatlas_small", "xatlas_large")
    return styles[int(rng.integers(len(styles)))]


def unwrapped(rng: np.random.Generator, part: Part, style: ChartStyle) -> tuple[Array, Indices]:
    """UVs of the face corners, ``[N, 3, 2]`` in [0, 1], and the faces they belong to, ``[N]``.

    Args:
        rng: chart rotations, packing padding, and a final turn or flip of the whole square.
        part: the mesh; faces without area are left out.
        style: ``natural`` needs ``part.corner_uv``.
    """
    corners = part.vertices[part.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    kept = np.flatnonzero(np.linalg.norm(cross, axis=1) > 1e-9)
    corners, faces = corners[kept], part.faces[kept]
    if style == "natural":
        assert part.corner_uv is not None, "draw_chart_style gives natural only with corner_uv"
        assert part.chart is not None, "corner_uv and chart come together"
        chart = _islands(part.corner_uv[kept], faces, part.chart[kept])
        uv = _in_surface_units(part.corner_uv[kept], corners, chart)
        uv = _packed(rng, uv, chart)
    elif style == "box":
        uv, chart = _box_projection(corners, faces)
        uv = _packed(rng, uv, chart)
    else:
        uv = _by_xatlas(rng, part.vertices, faces, style)
    return _turned(rng, uv), kept


def _islands(corner_uv: Array, faces: Indices, chart: Indices) -> Indices:
    """Charts cut into connected patches."""
    return _patches(faces, chart)


def _patches(faces: Indices, group: Indices) -> Indices:
    """Numbers of the patches of faces that share an edge and a group, ``[T]``."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1), axis=-1)
    base = int(faces.max(initial=0)) + 1
    keys = (edges[..., 0] * base + edges[..., 1]).ravel()
    order = np.argsort(keys, kind="stable")
    owner = order // 3
    joins = (keys[order][1:] == keys[order][:-1]) & (group[owner[1:]] == group[owner[:-1]])
    a, b = owner[1:][joins], owner[:-1][joins]
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(faces), len(faces)))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)


def _in_surface_units(uv: Array, corners: Array, chart: Indices) -> Array:
    """Natural coordinates stretched per chart so that u and v have the surface's mean scale."""
    du1, du2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    dp1, dp2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = du1[:, 0] * du2[:, 1] - du1[:, 1] * du2[:, 0]
    safe = np.where(np.abs(area) > 1e-12, area, 1.0)[:, None]
    per_u = (dp1 * du2[:, 1:] - dp2 * du1[:, 1:]) / safe
    per_v = (dp2 * du1[:, :1] - dp1 * du2[:, :1]) / safe
    weight = np.abs(area) + 1e-12
    total = np.bincount(chart, weight)
    scales = [
        np.sqrt(np.bincount(chart, weight * (per**2).sum(axis=1)) / total) for per in (per_u, per_v)
    ]
    return np.asarray(uv * np.maximum(np.stack(scales, axis=1), 1e-6)[chart][:, None])


def _box_projection(corners: Array, faces: Indices) -> tuple[Array, Indices]:
    """Projection along the nearest axis, one chart per connected patch.

    A patch that folds over itself is cut where its faces lie at other depths.
    """
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.argmax(np.abs(normals), axis=1)
    sign = np.take_along_axis(normals, axis[:, None], axis=1)[:, 0] < 0
    kept = np.array([[1, 2], [2, 0], [0, 1]])[axis]
    uv = np.take_along_axis(corners, kept[:, None, :], axis=2)
    uv[..., 0] *= np.where(sign, -1.0, 1.0)[:, None]
    return uv, _patches(faces, axis.astype(np.int64) * 2 + sign)


def _packed(rng: np.random.Generator, uv: Array, chart: Indices) -> Array:
    """Charts turned by quarters, placed side by side, and stretched to fill the unit square.

    Of several ways to turn the charts, the one that leaves them largest is taken.
    """
    count = int(chart.max()) + 1
    gain = np.exp(rng.normal(0.0, 0.15, size=count)) if chance(rng, 0.3) else np.ones(count)
    uv = uv * gain[chart][:, None, None]
    padding = float(rng.choice([0.004, 0.008, 0.016]))
    low, high = _bounds(uv, chart)
    tall = (high - low)[:, 0] < (high - low)[:, 1]
    spins = rng.integers(2, size=(4, count))
    spins[0], spins[1] = tall, ~tall
    best: tuple[float, Array] | None = None
    for spin in spins:
        turned = _spun(uv, (spin + 2 * rng.integers(2, size=count))[chart])
        low, high = _bounds(turned, chart)
        origin, scale = pack_rectangles(high - low, padding=padding)
        if best is None or scale > best[0]:
            placed = (turned - low[chart][:, None]) * scale + origin[chart][:, None]
            best = scale, placed
    assert best is not None, "there is at least one way to turn the charts"
    room = np.clip((1 - padding) / best[1].max(axis=(0, 1)), 1.0, between(rng, 1.0, 1.6))
    return np.asarray(best[1] * room)


def _bounds(uv: Array, chart: Indices) -> tuple[Array, Array]:
    """Lowest and highest corner of every chart, ``[N, 2]`` each."""
    count = int(chart.max()) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, chart, uv.min(axis=1))
    np.maximum.at(high, chart, uv.max(axis=1))
    return low, high


def _spun(uv: Array, quarter: Indices) -> Array:
    """Faces turned by quarters about the origin."""
    u, v = uv[..., 0], uv[..., 1]
    turned = np.stack([np.stack(p, axis=-1) for p in ((u, v), (-v, u), (-u, -v), (v, -u))])
    return np.asarray(turned[quarter, np.arange(len(uv))])


def _by_xatlas(
    rng: np.random.Generator, vertices: Array, faces: Indices, style: ChartStyle
) -> Array:
    import xatlas

    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    pack.resolution, pack.padding = 1024, 2
    if style == "xatlas_small":
        charts.max_cost, charts.normal_deviation_weight = between(rng, 0.3, 1.0), 4.0
        pack.padding = int(rng.integers(2, 8))
    elif style == "xatlas_large":
        charts.max_cost, charts.normal_deviation_weight = between(rng, 4.0, 16.0), 0.5
        pack.padding = int(rng.integers(4, 16))
    atlas = xatlas.Atlas()
    used, local = np.unique(faces, return_inverse=True)
    atlas.add_mesh(vertices[used].astype(np.float32), local.reshape(-1, 3).astype(np.uint32))
    atlas.generate(charts, pack)
    _, indices, uvs = atlas[0]
    return np.asarray(uvs[indices], dtype=np.float64).clip(0.0, 1.0)


def _turned(rng: np.random.Generator, uv: Array) -> Array:
    """The whole square turned by a quarter, and rarely mirrored."""
    quarter = int(rng.integers(4))
    u, v = uv[..., 0], uv[..., 1]
    u, v = ((u, v), (1 - v, u), (1 - u, 1 - v), (v, 1 - u))[quarter]
    if chance(rng, 0.1):
        u = 1 - u
    return np.stack([u, v], axis=-1)
