"""Triangles cut at the near plane: what is left, all of it, wound as before."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqtex_geometry.rasterize.near_plane import clip_near


def crosses(corners: Tensor) -> Tensor:
    """Twice the area, as vectors, ``[..., 3]``."""
    return torch.linalg.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    )


@given(seed=st.integers(0, 2**31), near=st.sampled_from([0.1, 1.0]))
@settings(max_examples=25, deadline=None)
def test_the_parts_before_and_behind_are_the_whole(seed: int, near: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    triangles = torch.randn(2, 9, 3, 3, generator=generator, dtype=torch.float64) + near
    mirror = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    offset = torch.tensor([0.0, 0.0, 2 * near], dtype=torch.float64)

    def kept(corners: Tensor) -> Tensor:
        parts, source = clip_near(corners, near)
        left = ~torch.isnan(parts).any(-1).any(-1)
        assert (parts[left][..., 2] >= near - 1e-9).all()
        areas = torch.where(left[..., None], crosses(parts), 0.0)
        return torch.zeros_like(corners[:, :, 0]).index_add_(1, source, areas)

    behind = kept(triangles * mirror + offset)  # depth counted backwards from the plane
    # A mirror image is wound the other way: its area along the axis of depth is what stays.
    whole = kept(triangles) + behind * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(whole, crosses(triangles), atol=1e-8, rtol=1e-8)


def test_nothing_is_cut_that_is_before_the_plane() -> None:
    triangles = torch.rand(1, 4, 3, 3) + 1.0
    parts, source = clip_near(triangles, 1.0)
    assert torch.equal(parts, triangles)
    assert source.tolist() == [0, 1, 2, 3]
