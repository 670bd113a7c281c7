"""Colours that a picture shows on the wrong side of an outline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

Array = npt.NDArray[np.float32]

_BESIDE = 0.006  # of the picture's side: how far beside an outline colours may be another part's
_STRANGE = 0.15  # distance in RGB from which a colour is none of a part's own
_LEAST_SHARE = 0.1  # of a part's points that must be further inside, to know its own colours
_FEW = 4000  # points that stand for a part


def stained(color: Tensor, part: Tensor, known: Tensor, inside: Tensor) -> Tensor:
    """Known points beside outlines that have the colour of another part, ``[N]`` bool.

    A picture drawn over a mesh never fits to the pixel. What is a pixel or two over the edge of a
    part is shown there, as drawn, but must not spread over all of the part that is not shown. A
    colour that the part has further inside is its own.

    Args:
        color: ``[N, 3]`` in [0, 1].
        part: number of the part of the mesh, ``[N]``.
        known: True where the colour counts, ``[N]``.
        inside: distance from outlines as a share of the picture's side, ``[N]``.
    """
    deep = (known & (inside >= _BESIDE)).cpu().numpy()
    colors, labels = color.detach().cpu().numpy(), part.cpu().numpy()
    found = np.zeros(len(colors), dtype=bool)
    if len(np.unique(labels[deep])) > 1:
        every = _palette(colors[deep], 5 * _FEW)
        rows = np.flatnonzero(known.cpu().numpy())
        rows = rows[np.argsort(labels[rows], kind="stable")]
        for own in np.split(rows, np.flatnonzero(np.diff(labels[rows])) + 1):
            inner, outer = own[deep[own]], own[~deep[own]]
            if len(inner) >= max(1, _LEAST_SHARE * len(own)):
                away, _ = _palette(colors[inner], _FEW).query(colors[outer])
                other, _ = every.query(colors[outer])
                found[outer] = (away > _STRANGE) & (other < away / 2)
    return torch.from_numpy(found).to(known.device)


def _palette(colors: Array, count: int) -> cKDTree:
    """The colours, in 8 bits, of at most so many of the points."""
    rows = np.linspace(0, len(colors) - 1, min(count, len(colors))).astype(np.int64)
    return cKDTree(np.unique(np.round(255 * colors[rows]), axis=0) / 255)
