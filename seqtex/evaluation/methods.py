"""Texturing methods that need no training, on the same footing as the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from seqtex_geometry.fill import fill_nearest_surface

from ..projection_frame import NOTHING_SEEN, completed_frame
from .cases import EvaluationCase

TRUTH, MEAN, NEAREST, SMOOTH = "truth", "mean colour", "nearest fill", "smooth fill"
BASELINE = NEAREST
"""The method that all others are compared with, object by object."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeTexture:
    """What a method makes of a case.

    Args:
        texture: ``[3, H, W]`` in [0, 1]; only texels with surface count.
        views: its own pictures of the object, ``[F, 3, h, w]``, if it makes any.
    """

    texture: Tensor
    views: Tensor | None = None


class TexturingMethod(Protocol):
    """A way to a whole texture from one reference."""

    @property
    def name(self) -> str:
        """Short, unique in an evaluation."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it is and its settings, plain JSON types only."""
        ...

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """A texture per case."""
        ...


class TrueTexture:
    """The truth itself: shows how far the measures can go."""

    name = TRUTH
    facts: Mapping[str, Any] = {"description": "the true texture: the limit of every measure"}

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """The true textures and views."""
        return [MadeTexture(texture=c.images.uv, views=c.images.views) for c in cases]


class MeanColor:
    """One colour all over: the mean of the reference."""

    name = MEAN
    facts: Mapping[str, Any] = {
        "description": "(a) the mean colour of the reference's pixels, weighted by coverage"
    }

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """Flat textures."""
        return [MadeTexture(texture=self._flat(case)) for case in cases]

    def _flat(self, case: EvaluationCase) -> Tensor:
        covered = case.maps.view_mask[case.given_view].sum()
        color = case.reference.sum(dim=(1, 2)) / covered.clamp(min=1e-6)
        if float(covered) == 0:
            color = torch.full_like(color, NOTHING_SEEN)
        return color[:, None, None].expand(-1, *case.charted.shape)


class NearestFill:
    """The seen texels, and for the others the colour of the nearest seen one in space."""

    name = NEAREST
    facts: Mapping[str, Any] = {
        "description": "(b) true colour of every texel that the reference shows; the others take "
        "that of the nearest such texel in space (one neighbour, no symmetry, no smoothing). Seen "
        "texels are exact, better than sampling any picture could make them: this favours (b), (c)"
    }

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """Textures without any error where the reference shows the surface."""
        return [MadeTexture(texture=self._filled(case)) for case in cases]

    def _filled(self, case: EvaluationCase) -> Tensor:
        mask = case.charted
        texture = torch.zeros_like(case.images.uv)
        if not bool((case.seen & mask).any()):
            texture[:, mask] = NOTHING_SEEN
            return texture
        texture[:, mask] = fill_nearest_surface(
            case.maps.uv_position[:, mask].T,
            case.images.uv[:, mask].T,
            case.seen[mask],
            neighbors=1,
        ).T
        return texture


class SmoothFill:
    """The seen texels, and for the others the library's smooth fill along the surface."""

    name = SMOOTH
    facts: Mapping[str, Any] = {
        "description": "(c) as (b), but filled as `seqtex texture --method project` fills: "
        "smoothly along the surface; without its use of symmetry, which needs the mesh"
    }

    def __call__(self, cases: Sequence[EvaluationCase]) -> list[MadeTexture]:
        """Textures without any error where the reference shows the surface."""
        return [MadeTexture(texture=self._filled(case)) for case in cases]

    def _filled(self, case: EvaluationCase) -> Tensor:
        maps = case.maps
        return completed_frame(
            case.images.uv, case.seen, maps.uv_position, maps.uv_normal, case.charted
        )


def baselines() -> list[TexturingMethod]:
    """The methods that are always measured."""
    return [TrueTexture(), MeanColor(), NearestFill(), SmoothFill()]
