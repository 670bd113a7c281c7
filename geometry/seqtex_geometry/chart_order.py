"""Which of several charts over the same texels is on top: whole charts, never a mix of their faces.

The two halves of a mirrored object often share their texels. If each texel went to the face that
comes first in the file, neighbouring texels would lie on opposite sides of the object.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Points = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


def chart_order(face_uvs: Tensor, corners: Tensor) -> Tensor:
    """Face indices so that charts come one after the other, ``[T]`` int64.

    A chart is what hangs together both on the surface and in UV space and is wound one way: where
    a chart is folded over itself, both sides count as charts. Charts wound counter-clockwise come
    first, so that one half of a mirrored object is on top everywhere; then the one whose first
    face comes first.

    Args:
        face_uvs: ``[T, 3, 2]``, finite.
        corners: positions, ``[T, 3, 3]``.
    """
    if len(face_uvs) == 0:
        return torch.zeros(0, dtype=torch.int64, device=face_uvs.device)
    uvs = face_uvs.detach().float().cpu().numpy()
    clockwise = _winding(uvs) < 0
    chart = _charts(uvs, corners.detach().float().cpu().numpy(), clockwise)
    first = np.full(int(chart.max()) + 1, len(chart), dtype=np.int64)
    np.minimum.at(first, chart, np.arange(len(chart)))
    order = np.lexsort((np.arange(len(chart)), first[chart], clockwise))
    return torch.from_numpy(order).to(face_uvs.device)


def _winding(uvs: Points) -> npt.NDArray[np.float64]:
    edges = uvs[:, 1:].astype(np.float64) - uvs[:, :1]
    area: npt.NDArray[np.float64] = (
        edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    )
    return area


def _charts(uvs: Points, corners: Points, clockwise: npt.NDArray[np.bool_]) -> Numbers:
    """Number of the chart of every face, ``[T]``: faces of one winding that share corners."""
    count = len(uvs)
    place = np.concatenate([corners, uvs], axis=2).reshape(-1, 5) + np.float32(0)  # no -0
    keys = np.concatenate([place.view(np.uint32), np.repeat(clockwise, 3)[:, None]], axis=1)
    rows = np.ascontiguousarray(keys).view([("", keys.dtype)] * keys.shape[1]).reshape(-1)
    _, corner = np.unique(rows, return_inverse=True)
    face = np.repeat(np.arange(count), 3)
    corner = corner.reshape(-1) + count
    size = count + int(corner.max()) + 1
    graph = coo_matrix((np.ones(len(face), np.int8), (face, corner)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    chart: Numbers = label[:count].astype(np.int64)
    return chart
