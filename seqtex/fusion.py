"""The last word on what no reference shows: a small network that weighs ways to continue.

The model's texture is one way among those of :mod:`seqtex_geometry.continuation`. What speaks for
each is known per texel; how to weigh it is learned (:mod:`seqtex.training.fusion_fit`). Weighed
colours lie between those that the ways offer, so where all agree nothing can go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqtex_core.checkpoint import load_model, save_model
from seqtex_core.errors import WeightsError
from seqtex_geometry.continuation import (
    EVIDENCE,
    WAYS,
    Continuations,
    averaged,
    continue_colors,
)

MODEL = "model"
CANDIDATES = (*WAYS, MODEL)
"""Names of what is weighed, in order."""

FUSION_NAME = "fusion.safetensors"
HIDDEN = 64


class Fusion(nn.Module):
    """Weights of the candidates of a texel from what speaks for them.

    Args:
        hidden: width.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        width = EVIDENCE + len(CANDIDATES)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, len(CANDIDATES)),
        )

    def weights(self, features: Tensor) -> Tensor:
        """Weights that sum to 1, ``[..., K]``, from :func:`fusion_features` ``[..., E + K]``."""
        logits: Tensor = self.layers((features - self.mean) / self.deviation)
        return logits.softmax(dim=-1)

    def forward(self, features: Tensor, colors: Tensor) -> Tensor:
        """Colours ``[..., 3]`` from features and the candidates' colours ``[..., K, 3]``."""
        return (self.weights(features)[..., None] * colors).sum(dim=-2)


def with_model(ways: Continuations, model: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[N, E + K]`` and colours ``[N, K, 3]`` of all candidates.

    Args:
        ways: of some texels.
        model: the model's colours there, ``[N, 3]``.
    """
    colors = torch.cat([ways.colors, model.cpu().float()[:, None]], dim=1)
    apart = (colors - colors.mean(dim=1, keepdim=True)).square().mean(dim=-1).sqrt()
    return torch.cat([ways.evidence, apart], dim=1), colors


@torch.no_grad()
def fused(
    fusion: Fusion,
    texture: Tensor,
    frame: Tensor,
    *,
    seen: Tensor,
    position: Tensor,
    normal: Tensor,
    mask: Tensor,
    part: Tensor | None = None,
) -> Tensor:
    """A model's texture, the unseen texels weighed against other ways to continue.

    What that changes of the smooth fill is averaged over near texels, so that one way turns into
    another without an edge.

    Args:
        fusion: on the CPU.
        texture: the model's, ``[3, H, W]``.
        frame: what was seen and, elsewhere, its smooth fill, ``[3, H, W]``.
        seen: True where the frame's colours were seen, ``[H, W]``.
        position: of the surface, ``[3, H, W]``.
        normal: of the surface, of any length, likewise.
        mask: True on the charts, ``[H, W]``.
        part: number of the part that a texel is continued from alone, ``[H, W]``; -1 for all.

    Returns:
        ``[3, H, W]``; the texture as it is if nothing was seen, or everything.
    """
    known = (seen & mask)[mask]
    if bool(known.all()) or not bool(known.any()):
        return texture
    places = position[:, mask].T, normal[:, mask].T
    ways = continue_colors(
        *places, frame[:, mask].T, known, part=None if part is None else part[mask]
    )
    hidden = mask & ~seen
    features, colors = with_model(ways, texture[:, hidden].T)
    base = frame[:, hidden].T.cpu().float()
    change = fusion(features, colors) - base
    change = averaged(
        change,
        position[:, hidden].T.cpu(),
        normal[:, hidden].T.cpu(),
        part=None if part is None else part[hidden],
    )
    result = texture.clone()
    result[:, hidden] = (base + change).T.to(texture)
    return result


def save_fusion(fusion: Fusion, folder: Path) -> None:
    """Write the weights into a model folder."""
    save_model(fusion, folder / FUSION_NAME)


def load_fusion(folder: Path, options: Mapping[str, Any]) -> Fusion:
    """The fusion of a model folder.

    Args:
        folder: of the model.
        options: of :class:`Fusion`, from the model's config.

    Raises:
        WeightsError: no weights there, or of another fusion.
    """
    try:
        fusion = Fusion(**options)
    except (TypeError, RuntimeError) as error:
        raise WeightsError(
            f"fusion of model {folder}", expected="hidden, a width", got=str(dict(options))
        ) from error
    load_model(fusion, folder / FUSION_NAME)
    return fusion.eval()
