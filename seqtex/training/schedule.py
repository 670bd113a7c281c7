"""The learning rate over a stage: a straight warm-up, then half a cosine.

Ten lines of our own: timm's scheduler cannot be imported without torchvision.
"""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, peak: float, total: int, warmup: int, final_ratio: float = 0.0
) -> float:
    """Rate of step ``step`` (from 0) of a stage.

    Rises linearly to ``peak`` in the last warm-up step, then follows half a cosine to
    ``final_ratio * peak`` in the last step.

    Args:
        step: 0 to ``total - 1``.
        peak: highest rate.
        total: steps of the stage.
        warmup: steps of the rise; may be 0.
        final_ratio: last rate over the highest.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    span = max(total - 1 - warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min((step - warmup) / span, 1.0)))
    return peak * (final_ratio + (1 - final_ratio) * cosine)
