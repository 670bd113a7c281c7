"""Parts of a mesh: pieces of surface that hang together."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .surface import SurfaceTensors
from .surface_memory import once_per_surface


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
