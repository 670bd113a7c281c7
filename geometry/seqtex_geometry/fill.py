"""Colours for what no view has seen, taken from the surface that was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, diags
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree
from torch import Tensor

from seqtex_core.errors import UsageError

from .surface_graph import Array, Index, graph_by_parts, longest_edge, neighbor_graph, set_apart

_NORMAL_SCALE = 0.1  # a right angle between normals counts like this share of the diagonal
_MAX_NODES_PER_AXIS = 160  # of the bounding box's longest edge; the smooth fill's resolution
_KEEP = 1e-3  # how strongly the smooth fill is held to the colour nearest along the surface


def fill_nearest_surface(
    position: Tensor,
    color: Tensor,
    known: Tensor,
    *,
    normal: Tensor | None = None,
    neighbors: int = 8,
) -> Tensor:
    """Colours where the unknown points take those of the nearest known points.

    Args:
        position: points on the surface, ``[N, 3]``.
        color: ``[N, C]``; rows that are not known are ignored.
        known: True where the colour counts, ``[N]``.
        normal: unit normals, ``[N, 3]``. With them, points that face the same way are nearer.
        neighbors: known points that are blended, weighted by inverse squared distance.

    Returns:
        ``[N, C]``: known rows unchanged; unchanged altogether if nothing is known.

    Raises:
        UsageError: shapes that do not fit, or no neighbours.
    """
    _check(position, color, known, normal, neighbors)
    if bool(known.all()) or not bool(known.any()):
        return color
    features = _features(position, normal)
    seen = known.cpu().numpy()
    filled = _nearest_mean(
        features[seen], color.detach().double().cpu().numpy()[seen], features[~seen], neighbors
    )
    result = color.clone()
    result[~known] = torch.from_numpy(filled).to(color)
    return result


def fill_smooth_surface(
    position: Tensor,
    color: Tensor,
    known: Tensor,
    *,
    normal: Tensor | None = None,
    part: Tensor | None = None,
    neighbors: int = 8,
) -> Tensor:
    """Colours where the unknown points are as smooth as the known ones allow.

    The surface is thinned to cells; unknown cells solve Laplace's equation on the graph of nearest
    cells, so colours run into each other without the borders that nearest colours leave where two
    regions meet. Cells that no path joins to a known one take the nearest known colours.

    Args:
        position: points on the surface, ``[N, 3]``.
        color: ``[N, C]``; rows that are not known are ignored.
        known: True where the colour counts, ``[N]``.
        normal: unit normals, ``[N, 3]``; keeps the two sides of thin walls apart.
        part: number of the part of the mesh that a point belongs to, ``[N]`` int64. With it,
            colours run over the sharp edges of a part, and hardly into another part, unless
            nothing of that is known.
        neighbors: cells that a cell is joined to.

    Returns:
        ``[N, C]``: known rows unchanged; unchanged altogether if nothing is known.

    Raises:
        UsageError: shapes that do not fit, or no neighbours.
    """
    _check(position, color, known, normal, neighbors)
    if part is not None and (part.shape != known.shape or part.is_floating_point()):
        got = f"{part.dtype} {list(part.shape)}"
        raise UsageError("part", expected=f"whole numbers [{len(known)}]", got=got)
    if bool(known.all()) or not bool(known.any()):
        return color
    features = _features(position, normal)
    seen = known.cpu().numpy()
    labels = _labels(part, len(features))
    cells = _Cells.of(features, color.detach().double().cpu().numpy(), seen, labels)
    places, wanted = cells.feature, features[~seen]
    if part is None:
        graph = neighbor_graph(places, neighbors)
    else:
        graph = graph_by_parts(places, cells.part, neighbors)
        extent = longest_edge(features)
        places = set_apart(places, cells.part, extent)
        wanted = set_apart(wanted, labels[~seen], extent)
    smooth = _relax(graph, cells.known, _carry(graph, cells))
    filled = _nearest_mean(places, smooth, wanted, 4)
    result = color.clone()
    result[~known] = torch.from_numpy(filled).to(color)
    return result


def _labels(part: Tensor | None, count: int) -> Index:
    """Parts by number from 0; all points of one if nobody knows."""
    if part is None:
        return np.zeros(count, np.int64)
    _, labels = np.unique(part.cpu().numpy(), return_inverse=True)
    return labels.reshape(-1).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cells:
    """Points of a part merged into small cells: mean feature, mean known colour, if any was known.

    Args:
        feature: of the cells, ``[M, D]``.
        color: ``[M, C]``.
        known: ``[M]``.
        part: ``[M]``.
    """

    feature: Array
    color: Array
    known: npt.NDArray[np.bool_]
    part: Index

    @classmethod
    def of(
        cls, features: Array, colors: Array, seen: npt.NDArray[np.bool_], labels: Index
    ) -> _Cells:
        size = max(longest_edge(features), 1e-9) / _MAX_NODES_PER_AXIS
        key = np.floor((features - features.min(0)) / size).astype(np.int64)
        key[:, 3:] //= 4  # normals need fewer cells than positions
        key = np.column_stack([labels, key])
        sides = key.max(0) + 1
        flat = np.ravel_multi_index(key.T, sides)
        _, first, cell = np.unique(flat, return_index=True, return_inverse=True)
        cell = cell.reshape(-1)
        count = int(cell.max()) + 1
        known = np.bincount(cell[seen], minlength=count) > 0
        return cls(
            feature=_cell_mean(cell, features, count),
            color=_cell_mean(cell[seen], colors[seen], count),
            known=known,
            part=labels[first],
        )


def _carry(graph: csr_matrix, cells: _Cells) -> Array:
    """Colours of all cells: of the known cell that is nearest along the surface, or through air."""
    steps = graph.copy()
    steps.data = 1.0 / np.sqrt(steps.data)
    known = np.flatnonzero(cells.known)
    _, _, source = dijkstra(steps, indices=known, min_only=True, return_predecessors=True)
    start: Array = cells.color[np.maximum(source, 0)]
    island = source < 0  # no path from any known cell
    if island.any():
        start[island] = _nearest_mean(
            cells.feature[known], cells.color[known], cells.feature[island], 8
        )
    return start


def _relax(graph: csr_matrix, known: npt.NDArray[np.bool_], start: Array) -> Array:
    """Colours of all cells; the unknown ones are near the weighted mean of their neighbours."""
    unknown = ~known
    if not unknown.any():
        return start
    rows = graph[unknown]
    degree = np.asarray(rows.sum(1)).reshape(-1)
    keep = _KEEP * degree
    matrix = diags(degree + keep) - rows[:, unknown]
    from_known = rows[:, known] @ start[known]
    scale = diags(1.0 / (degree + keep))
    result = start.copy()
    for channel in range(start.shape[1]):
        right = from_known[:, channel] + keep * start[unknown, channel]
        solution, _ = cg(matrix, right, x0=start[unknown, channel], rtol=1e-4, maxiter=500, M=scale)
        result[unknown, channel] = solution
    limited: Array = np.clip(result, start[known].min(0), start[known].max(0))
    return limited


def _nearest_mean(source: Array, values: Array, target: Array, neighbors: int) -> Array:
    """Mean of the nearest ``source`` values at ``target``, by inverse squared distance."""
    k = min(neighbors, len(source))
    distance, index = cKDTree(source).query(target, k=k)
    distance, index = distance.reshape(-1, k), index.reshape(-1, k)
    # A floor relative to the nearest keeps one very near point from hiding all others.
    weight = 1.0 / (distance**2 + 0.01 * distance[:, -1:] ** 2 + 1e-12)
    weight /= weight.sum(1, keepdims=True)
    result: Array = np.einsum("nk,nkc->nc", weight, values[index])
    return result


def _features(position: Tensor, normal: Tensor | None) -> Array:
    points: Array = position.detach().double().cpu().numpy()
    if normal is None:
        return points
    scale = _NORMAL_SCALE * float(np.linalg.norm(np.ptp(points, axis=0)))
    directions: Array = normal.detach().double().cpu().numpy()
    return np.concatenate([points, scale / np.sqrt(2.0) * directions], axis=1)


def _cell_mean(cell: Index, values: Array, count: int) -> Array:
    number = np.maximum(np.bincount(cell, minlength=count), 1)
    sums = [np.bincount(cell, weights=column, minlength=count) for column in values.T]
    return np.stack(sums, axis=1) / number[:, None]


def _check(
    position: Tensor, color: Tensor, known: Tensor, normal: Tensor | None, neighbors: int
) -> None:
    count = position.shape[0]
    shapes = [list(position.shape), list(color.shape), list(known.shape)]
    fits = shapes[0] == [count, 3] and color.ndim == 2 and len(color) == count
    fits = fits and shapes[2] == [count] and known.dtype == torch.bool
    if normal is not None:
        shapes.append(list(normal.shape))
        fits = fits and shapes[3] == [count, 3]
    if not fits:
        raise UsageError(
            "surface points",
            expected="position [N, 3], color [N, C], boolean known [N] and normal [N, 3]",
            got=", ".join(map(str, shapes)),
        )
    if neighbors < 1:
        raise UsageError("neighbors", expected="at least 1", got=str(neighbors))
