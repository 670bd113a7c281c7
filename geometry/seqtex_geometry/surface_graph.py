"""Graphs of points on a surface: which are near each other, and how strongly they are joined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix
from scipy.spatial import cKDTree

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_ACROSS = 1e-4  # how strongly nodes of different parts are joined
_CREASE = 0.02  # how strongly nodes on both sides of a sharp edge of a part are joined
_FOLDED = (-0.2, 0.7)  # cosine of the normals there: less has a thin wall, more what is smooth
_APART = 10.0  # of the longest edge: how far apart different parts are put to be told apart


def neighbor_graph(features: Array, neighbors: int) -> csr_matrix:
    """Symmetric weights between nearest nodes, inverse squared distance, ``[M, M]``.

    Args:
        features: of the nodes, ``[M, D]``.
        neighbors: nodes that a node is joined to, at least.
    """
    count = len(features)
    k = min(neighbors + 1, count)
    distance, index = cKDTree(features).query(features, k=k)
    distance, index = distance.reshape(count, k)[:, 1:], index.reshape(count, k)[:, 1:]
    weight = 1.0 / np.maximum(distance, 1e-9) ** 2
    rows = np.repeat(np.arange(count), k - 1)
    graph = coo_matrix((weight.reshape(-1), (rows, index.reshape(-1))), shape=(count, count))
    return (graph + graph.T).tocsr() * 0.5


def graph_by_parts(feature: Array, part: Index, neighbors: int) -> csr_matrix:
    """Weights within parts, over their sharp edges too, and weak ones between parts, ``[M, M]``.

    Normals keep the sides of thin walls apart, and with them the faces of a box, which often are of
    one material; parts that touch often are not.

    Args:
        feature: position and, if wanted, scaled normal of every node, ``[M, D]``.
        part: number of its part, from 0.
        neighbors: nodes that a node is joined to.
    """
    extent = longest_edge(feature)
    place = set_apart(feature[:, :3], part, extent)
    graph = neighbor_graph(set_apart(feature, part, extent), neighbors)
    graph = _chosen(graph, lambda a, b: part[a] == part[b])
    if feature.shape[1] > 3:
        unit = feature[:, 3:] / np.maximum(np.linalg.norm(feature[:, 3:], axis=1), 1e-9)[:, None]

        def folds(a: Index, b: Index) -> npt.NDArray[np.bool_]:
            facing: Array = np.einsum("nd,nd->n", unit[a], unit[b])
            between: npt.NDArray[np.bool_] = (facing > _FOLDED[0]) & (facing < _FOLDED[1])
            joined: npt.NDArray[np.bool_] = between & (part[a] == part[b])
            return joined

        graph = graph + _CREASE * _chosen(neighbor_graph(place, neighbors), folds)
    if not part.any():
        return graph
    near = neighbor_graph(feature, neighbors)
    return graph + _ACROSS * _chosen(near, lambda a, b: part[a] != part[b])


def longest_edge(features: Array) -> float:
    """Longest edge of the positions' bounding box."""
    return float(np.ptp(features[:, :3], axis=0).max())


def set_apart(features: Array, labels: Index, extent: float) -> Array:
    """Features with which points of one part are as far from each other as before, others far.

    Args:
        features: position first, ``[M, D]``.
        labels: number of the part, from 0.
        extent: longest edge of the whole object: the same for all that are to be compared.
    """
    places = np.random.default_rng(0).random((int(labels.max()) + 1, 3))
    return np.concatenate([features, _APART * extent * places[labels]], axis=1)


def _chosen(
    graph: csr_matrix, wanted: Callable[[Index, Index], npt.NDArray[np.bool_]]
) -> csr_matrix:
    """The weights of some pairs."""
    pairs = graph.tocoo()
    kept = wanted(pairs.row, pairs.col)
    where = (pairs.row[kept], pairs.col[kept])
    return coo_matrix((pairs.data[kept], where), shape=graph.shape).tocsr()
