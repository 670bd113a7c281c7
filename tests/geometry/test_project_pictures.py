"""What it costs to look at pictures: large ones are reduced, and each is looked at once."""

from __future__ import annotations

import pytest
import torch
from projected_shapes import sphere

from seqtex_geometry.cameras import CameraRig
from seqtex_geometry.maps import uv_maps, view_maps
from seqtex_geometry.project import Projector, ProjectSettings, project_texture
from seqtex_geometry.rasterize import choose_rasterizer

BACKEND = choose_rasterizer("embree")
MAGENTA = torch.tensor([1.0, 0.0, 1.0])[:, None, None]


def test_pictures_far_larger_than_the_texture_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The colours stay, transparent pixels do not bleed into them; fewer rays are cast."""
    monkeypatch.setattr("seqtex_geometry.project._MIN_PICTURE", 128)
    surface = sphere()
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    maps = uv_maps(surface, height=48, width=48, rasterizer=BACKEND)
    alpha = view_maps(
        surface, cameras.select("front"), height=1024, width=1024, rasterizer=BACKEND
    ).mask
    color = torch.tensor([0.9, 0.3, 0.2])[:, None, None]
    picture = torch.cat([color * alpha + MAGENTA * (1 - alpha), 0.97 * alpha])  # opaque enough
    asked: list[int] = []
    real = type(BACKEND).face_idx_views

    def counted(self: object, *args: object, height: int, width: int) -> torch.Tensor:
        asked.append(height)
        return real(self, *args, height=height, width=width)

    monkeypatch.setattr(type(BACKEND), "face_idx_views", counted)
    settings = ProjectSettings(mirror="none", fill="none")
    result = project_texture(
        surface, maps, {"front": picture}, cameras, rasterizer=BACKEND, settings=settings
    )
    assert max(asked) <= 512  # the depth map's least size
    off = result.texture[:, result.seen] - torch.tensor([0.9, 0.3, 0.2])[:, None]
    assert result.seen.sum() > 300
    assert off.abs().max() < 2e-3


def test_pictures_are_looked_at_once_for_all_textures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each texture comes out as if it were the only one; the depth map is cast once."""
    surface = sphere()
    cameras = CameraRig.seqtex(diagonal=surface.diagonal)
    halves = [torch.arange(surface.num_faces) % 2 == part for part in (0, 1)]
    layers = [
        uv_maps(surface, height=48, width=48, rasterizer=BACKEND, faces=half) for half in halves
    ]
    pictures = {"front": torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))}
    alone = [project_texture(surface, one, pictures, cameras, rasterizer=BACKEND) for one in layers]
    cast: list[int] = []
    real = type(BACKEND).face_idx_views

    def counted(self: object, *args: object, **more: int) -> torch.Tensor:
        cast.append(1)
        return real(self, *args, **more)

    monkeypatch.setattr(type(BACKEND), "face_idx_views", counted)
    projector = Projector(surface, pictures, cameras, size=48, rasterizer=BACKEND, keep=True)
    together = [projector.texture([one]) for one in layers]
    assert len(cast) == 2  # the front, and its mirror image from the back
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.texture, other.texture)
