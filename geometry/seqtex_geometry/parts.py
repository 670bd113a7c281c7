"""Parts of a mesh: pieces of surface that hang together."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .surface import SurfaceTensors
from .surface_memory import once_per_surface

_FEWEST = 4  # known points of a part that say what the rest of it looks like
_LEAST_SHARE = 0.02  # of all its points, likewise: an edge that just shows says nothing


@once_per_surface
def connected_parts(surface: SurfaceTensors) -> Tensor:
    """Number of the part that every face belongs to, ``[T]`` int64, from 0.

    Faces that share a corner are of one part, whether it is one vertex or several at the very same
    place, as files have them where normals or UVs are cut.

    Args:
        surface: any.
    """
    faces = surface.faces.detach().cpu().numpy()
    if not len(faces):
        return torch.zeros(0, dtype=torch.int64, device=surface.faces.device)
    place = surface.vertices.detach().float().cpu().numpy() + np.float32(0)  # no -0
    _, welded = np.unique(place, axis=0, return_inverse=True)
    corners = welded.reshape(-1)[faces]
    ends = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]]])
    count = int(corners.max()) + 1
    graph = coo_matrix((np.ones(len(ends), np.int8), tuple(ends.T)), shape=(count, count))
    _, part = connected_components(graph, directed=False)
    _, number = np.unique(part[corners[:, 0]], return_inverse=True)
    return torch.from_numpy(number.astype(np.int64)).to(surface.faces.device)


def shown_parts(part: Tensor, known: Tensor) -> Tensor:
    """Number of the part of each point if enough of that part is known, else -1, ``[N]`` int64.

    Points of the former can take their colours from the rest of their part.

    Args:
        part: number of the part that a point belongs to, from 0, ``[N]`` int64.
        known: True where the colour is known, ``[N]``.
    """
    count = int(part.max()) + 1 if len(part) else 0
    points, shown = part.bincount(minlength=count), part[known].bincount(minlength=count)
    enough = (shown >= _FEWEST) & (shown >= _LEAST_SHARE * points)
    return torch.where(enough[part], part, -1)
