"""Fits a fusion: the weights of the candidates that make hidden texels most like the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqtex_core.errors import UsageError

from ..fusion import CANDIDATES, HIDDEN, Fusion
from .fusion_examples import FusionExample

_FLOOR = 3e-4  # squared error below which more accuracy is not worth anything (35 dB)
_JITTER = 0.1  # of the features, in deviations
_SMOOTH = 1.5  # logit of the smooth fill at the start


@dataclass(frozen=True, kw_only=True)
class FusionFit:
    """How a fusion is fitted.

    Args:
        epochs: passes over the objects.
        objects: per step.
        texels: of each object and step.
        learning_rate: the highest.
        weight_decay: of AdamW.
        hidden: width of the network.
        seed: of the first weights and of the order.
    """

    epochs: int = 10
    objects: int = 16
    texels: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    hidden: int = HIDDEN
    seed: int = 0


def fit_fusion(examples: Sequence[FusionExample], settings: FusionFit) -> Fusion:
    """A fusion that makes the logarithm of each object's squared error small.

    The logarithm makes a plain object, where little can be wrong, count like a busy one.

    Args:
        examples: one per object, at least as many as a step takes.
        settings: how.

    Raises:
        UsageError: too few examples.
    """
    if len(examples) < settings.objects:
        raise UsageError(
            "objects",
            expected=f"at least {settings.objects} that hide something",
            got=str(len(examples)),
        )
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(settings.seed)
        fusion = _fresh(examples, settings.hidden)
        optimizer = torch.optim.AdamW(
            fusion.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = settings.epochs * (len(examples) // settings.objects)
        for step, chosen in enumerate(_order(len(examples), settings)):
            rate = settings.learning_rate * min(1.0, (step + 1) / 50)
            rate *= 0.5 + 0.5 * math.cos(math.pi * step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            _loss(fusion, [examples[k] for k in chosen], settings.texels).backward()
            optimizer.step()
    return fusion.eval().requires_grad_(False)


@torch.no_grad()
def mean_gain(fusion: Fusion, examples: Sequence[FusionExample], over: str = "smooth") -> float:
    """Mean over objects of how much better the fusion is than a candidate, in dB."""
    index = CANDIDATES.index(over)
    gains = []
    for one in examples:
        made = (fusion(one.features, one.colors) - one.truth).square().mean()
        other = (one.colors[:, index] - one.truth).square().mean()
        gains.append(10 * torch.log10(other.clamp(min=1e-6) / made.clamp(min=1e-6)))
    return float(torch.stack(gains).mean())


def _fresh(examples: Sequence[FusionExample], hidden: int) -> Fusion:
    fusion = Fusion(hidden)
    features = torch.cat([one.features for one in examples])
    fusion.mean.copy_(features.mean(dim=0))
    fusion.deviation.copy_(features.std(dim=0) + 1e-3)
    last = fusion.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
        last.bias[CANDIDATES.index("smooth")] = _SMOOTH
    return fusion


def _order(count: int, settings: FusionFit) -> list[list[int]]:
    """The objects of every step; an epoch leaves out what does not fill a step."""
    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        parts = torch.randperm(count).split(settings.objects)
        steps += [part.tolist() for part in parts if len(part) == settings.objects]
    return steps


def _loss(fusion: Fusion, examples: Sequence[FusionExample], texels: int) -> Tensor:
    errors = []
    for one in examples:
        rows = torch.randint(len(one.truth), (texels,))
        features = one.features[rows]
        features = features + _JITTER * fusion.deviation * torch.randn_like(features)
        made = fusion(features, one.colors[rows])
        errors.append((made - one.truth[rows]).square().mean())
    return torch.log(torch.stack(errors) + _FLOOR).mean()
