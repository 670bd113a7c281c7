"""Random numbers that belong to a sample or a step, never to a process or a moment.

Everything that training draws comes from the seed of the run, what the draw is for, and the global
number of the sample or step. So a run may be stopped, resumed, or spread over other numbers of
processes, and still draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch

Purpose = Literal[
    "level", "noise", "views", "task", "data", "light", "style", "caption", "preview", "texels"
]


def derived_seed(seed: int, purpose: str, index: int) -> int:
    """A 63-bit seed for one draw.

    Args:
        seed: of the run.
        purpose: what is drawn; draws for different purposes are independent.
        index: global number of the sample or step.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, purpose: Purpose, index: int) -> torch.Generator:
    """A CPU generator for one draw; see :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, index))


def generators_for(seed: int, purpose: Purpose, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator per sample."""
    return [generator_for(seed, purpose, index) for index in indices]


def draw_weighted(weights: Sequence[float], generator: torch.Generator) -> int:
    """An index with probability proportional to its weight.

    Args:
        weights: non-negative, not all 0.
        generator: of one draw.
    """
    total = sum(weights)
    point = float(torch.rand((), generator=generator, dtype=torch.float64)) * total
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return last
