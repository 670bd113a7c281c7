"""Views of a textured object that is known only as samples, without its mesh."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..data.sample import ObjectSample

_NEIGHBORS = 4
_NORMAL_SCALE = 0.1 / 2.0**0.5  # of the diagonal; keeps the two sides of thin walls apart


class TexelRenderer:
    """Draws the views of an object from a texture.

    A sample of a view takes the colours of the four texels nearest to it on the surface (position
    and normal), weighted by inverse squared distance. How exact that is, the true texture tells:
    its views drawn this way are compared with the true views in every evaluation.

    Args:
        sample: the object.
    """

    def __init__(self, sample: ObjectSample) -> None:
        self._sample = sample
        self._texel = torch.nonzero(sample.maps().uv_mask.reshape(-1) > 0)[:, 0]
        scale = _NORMAL_SCALE * sample.record.diagonal
        features = torch.cat([sample.position, scale * sample.normal], dim=1).cpu().double()
        count = sample.num_view_samples
        near = min(_NEIGHBORS, len(self._texel))
        tree = cKDTree(features[count:].numpy())
        distance, index = tree.query(features[:count].numpy(), k=[*range(1, near + 1)])
        self._index = torch.from_numpy(index)
        weight = 1.0 / (torch.from_numpy(distance).square() + 1e-12)
        self._weight = (weight / weight.sum(dim=1, keepdim=True)).float()

    def __call__(self, texture: Tensor) -> Tensor:
        """Views ``[F, 3, h, w]`` of a texture ``[3, H, W]``; black around the object."""
        colors = texture.flatten(1).T[self._texel][self._index]
        return self._sample.view_image((colors * self._weight[..., None]).sum(dim=1))
