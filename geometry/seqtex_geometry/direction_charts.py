"""Charts for meshes with very many faces: the surface cut by the direction that it faces.

Every chart is seen straight along an axis without folding over itself, so it is laid flat by
leaving that axis out. Charts come out somewhat more stretched than those of xatlas, in seconds
where xatlas takes many minutes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components

from .mesh import FloatArray, IntArray

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_DIRECTIONS = np.array(
    [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float64
)
_FLAT_AXES = np.array([[1, 2], [2, 1], [2, 0], [0, 2], [0, 1], [1, 0]])
_SMOOTHING = 12  # rounds over which a face's neighbourhood decides where it belongs
_STEEPEST = 0.25  # least cosine between a face and its chart's axis: stretched by 4 at the most
_SMALL = 64  # faces; smaller pieces join a neighbour that can take them
_LAYER = 2.5  # a jump in depth, in cells, that no slope within a cell explains
_ROUNDS = 4  # of parting layers that lie over each other


def direction_charts(vertices: FloatArray, faces: IntArray) -> tuple[Array, IntArray]:
    """Plane coordinates of every corner, and the chart of every face.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[T, 3]``; those without area share a chart with whatever they touch.

    Returns:
        ``[T, 3, 2]`` in the units of ``vertices``, wound counter-clockwise, and ``[T]``.
    """
    corners = vertices[faces].astype(np.float64)
    corners -= corners.reshape(-1, 3).min(0)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.linalg.norm(normal, axis=1)
    normal /= np.maximum(size, 1e-300)[:, None]
    neighbors = _neighbors(vertices, faces)
    side = _sides(normal, size, neighbors)
    layer = np.zeros(len(faces), np.int64)
    for _ in range(_ROUNDS):
        chart = _pieces(neighbors, side, layer)
        covered = _covered(corners, side, chart)
        if not covered.any():
            break
        layer[covered] += 1
    chart = _pieces(neighbors, side, layer)
    axes = _FLAT_AXES[side]
    plane = np.take_along_axis(corners, axes[:, None, :].repeat(3, axis=1), axis=2)
    return plane, chart


def _neighbors(vertices: FloatArray, faces: IntArray) -> csr_matrix:
    """Which faces share an edge, ``[T, T]``; corners at one place are one vertex."""
    count = len(faces)
    _, welded = np.unique(vertices + np.float32(0), axis=0, return_inverse=True)  # no -0
    faces = welded.reshape(-1)[faces]
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    key = ends[:, 0].astype(np.int64) * (int(faces.max()) + 1) + ends[:, 1]
    _, edge = np.unique(key, return_inverse=True)
    face = np.repeat(np.arange(count), 3)
    shape = (count, int(edge.max()) + 1)
    incidence = coo_matrix((np.ones(len(face), np.float32), (face, edge)), shape=shape).tocsr()
    shared = (incidence @ incidence.T).tocsr()
    shared.setdiag(0)
    shared.eliminate_zeros()
    return shared


def _sides(normal: Array, size: Array, neighbors: csr_matrix) -> IntArray:
    """Number of the direction that each face is laid out along, ``[T]``."""
    smooth = normal.copy()
    weight = np.maximum(size, 1e-300)
    average = neighbors @ diags(weight) + diags(weight)
    for _ in range(_SMOOTHING):
        smooth = average @ smooth
        smooth /= np.maximum(np.linalg.norm(smooth, axis=1), 1e-300)[:, None]
    cosine = normal @ _DIRECTIONS.T
    cosine[size <= 0] = 1.0  # what has no area fits anywhere
    fits = cosine >= _STEEPEST
    side = np.where(fits, smooth @ _DIRECTIONS.T, -np.inf).argmax(1)
    side = np.where(fits.any(1), side, cosine.argmax(1))
    for _ in range(_SMOOTHING):
        piece = _pieces(neighbors, side)
        small = np.bincount(piece)[piece] < _SMALL
        if not small.any():
            break
        around = neighbors[small] @ np.eye(6, dtype=np.float32)[side]
        around = np.where(fits[small], around, 0.0)
        side[small] = np.where(around.max(1) > 0, around.argmax(1), side[small])
    sides: IntArray = side.astype(np.int64)
    return sides


def _pieces(neighbors: csr_matrix, *labels: IntArray) -> IntArray:
    """Connected pieces of faces that agree in all labels, ``[T]``."""
    pairs = neighbors.tocoo()
    same = np.ones(len(pairs.row), np.bool_)
    for label in labels:
        same &= label[pairs.row] == label[pairs.col]
    graph = coo_matrix((pairs.data[same], (pairs.row[same], pairs.col[same])), pairs.shape)
    piece: IntArray = connected_components(graph, directed=False)[1].astype(np.int64)
    return piece


def _covered(corners: Array, side: IntArray, chart: IntArray) -> Flags:
    """Faces that lie behind others of their own chart, ``[T]``.

    Centres are sorted into cells of the chart's plane; a jump in depth that the slope of one sheet
    cannot explain parts the cell into layers.
    """
    centre = corners.mean(1)
    flat = np.take_along_axis(centre, _FLAT_AXES[side], axis=1)
    depth = np.take_along_axis(centre, (side // 2)[:, None], axis=1)[:, 0]
    depth = np.where(side % 2 == 0, -depth, depth)  # nearer is smaller
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    cell_size = max(float(np.median(edges.max(1))), 1e-300) * 2.0
    cell = np.floor(flat / cell_size).astype(np.int64)
    order = np.lexsort((depth, cell[:, 1], cell[:, 0], chart))
    new = np.ones(len(order), np.bool_)
    for key in (chart, cell[:, 0], cell[:, 1]):
        new[1:] &= key[order[1:]] == key[order[:-1]]
    jump = np.zeros(len(order), np.bool_)
    reach = edges.max(1)[order]
    limit = _LAYER * np.maximum(cell_size, np.maximum(reach[1:], reach[:-1]))
    jump[1:] = new[1:] & (np.diff(depth[order]) > limit)
    start = np.flatnonzero(~np.concatenate([[False], new[1:]]))
    group = np.cumsum(np.isin(np.arange(len(order)), start)) - 1
    before = np.cumsum(jump)
    found = np.zeros(len(order), np.bool_)
    found[order] = before > before[start][group]
    return found
