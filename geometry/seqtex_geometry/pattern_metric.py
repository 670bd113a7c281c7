"""A metric in which near points have like colours, learned from the points that were seen.

Metric learning for kernel regression (Weinberger and Tesauro, AISTATS 2007), with one change: a
point is predicted from points that are far from it in space, since that is what the metric is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS = 60
_RATE = 0.1
_DECAY = 1e-4  # of a full map's entries, relative to the error
_NEAR = 0.3  # points within this distance say nothing about each other while the metric is learned
_LEAST = 1e-5  # mean kernel below which the mean colour takes over
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class PatternMetric:
    """A linear map of features; its images' squared distance is the kernel's exponent.

    Args:
        map: ``[D, E]``.
        error: squared error of predicting the seen points by one another, over their variance.
    """

    map: Tensor
    error: float


def learn_metric(
    features: Tensor, colors: Tensor, position: Tensor, *, full: bool
) -> PatternMetric:
    """The metric that predicts points best from others that are not near.

    Args:
        features: ``[N, D]``, of which the first three are the position and the last three the
            normal.
        colors: ``[N, C]``.
        position: ``[N, 3]``, in units of half the object.
        full: learn any map to six dimensions, instead of a weight for every feature.
    """
    far = (torch.cdist(position, position) > _NEAR).to(colors.dtype)
    scale = colors.var(dim=0, unbiased=False).mean() + 1e-4
    free = _first_map(features) if full else _first_weights(features)
    optimizer = torch.optim.Adam([free], lr=_RATE)
    with torch.enable_grad():
        free.requires_grad_()
        for _ in range(_STEPS):
            loss = _error(features, colors, far, free) / scale
            if full:
                loss = loss + _DECAY * free.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = free.detach()
    error = float(_error(features, colors, far, learned) / scale)
    return PatternMetric(map=learned if full else torch.diag(learned.exp()), error=error)


def regress(
    metric: PatternMetric, features: Tensor, colors: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Colours of points by those of others that are near in the metric.

    Args:
        metric: learned.
        features: of the points whose colours are known, ``[N, D]``.
        colors: ``[N, C]``.
        wanted: features of the others, ``[M, D]``.

    Returns:
        Colours ``[M, C]``, and the logarithm (base 10) of the mean kernel ``[M]``: how much is
        known about each.
    """
    known, mean = features @ metric.map, colors.mean(dim=0)
    made, masses = [], []
    for chunk in (wanted @ metric.map).split(_CHUNK):
        kernel = torch.exp(-torch.cdist(chunk, known).square()) / len(known)
        mass = kernel.sum(dim=1, keepdim=True)
        made.append((kernel @ colors + _LEAST * mean) / (mass + _LEAST))
        masses.append(torch.log10(mass[:, 0] + 1e-6))
    return torch.cat(made), torch.cat(masses)


def _error(features: Tensor, colors: Tensor, far: Tensor, free: Tensor) -> Tensor:
    mapped = features @ free if free.ndim == 2 else features * free.exp()
    kernel = torch.exp(-torch.cdist(mapped, mapped).square()) * far
    mean = colors.mean(dim=0)
    made = (kernel @ colors + 1e-3 * mean) / (kernel.sum(dim=1, keepdim=True) + 1e-3)
    return (made - colors).square().mean()


def _first_weights(features: Tensor) -> Tensor:
    """Logarithms of the weights: the position counts most."""
    weights = features.new_full((features.shape[1],), -0.5)
    weights[:3] = 1.0
    return weights


def _first_map(features: Tensor) -> Tensor:
    first = features.new_zeros(features.shape[1], 6)
    first[:3, :3] = 3.0 * torch.eye(3)
    first[-3:, 3:] = 0.5 * torch.eye(3)
    return first
