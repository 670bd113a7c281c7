"""Cosmos Predict2's noise levels, and their exact relation to rectified flow.

The pipeline adds noise without shrinking the signal: ``x = x0 + s eps`` with ``s`` from 80 down.
It feeds the network ``x / (1 + s)`` and the number ``s / (1 + s)``, and takes ``x0 = x / (1 + s) -
s / (1 + s) * output``. With ``sigma = s / (1 + s)`` the input is ``(1 - sigma) x0 + sigma eps``,
the ``x_sigma`` of the library, and the output is ``(x_sigma - x0) / sigma = eps - x0``, its
velocity. So nothing is converted but the levels, and an Euler step in ``s`` is one in ``sigma``.
"""

from __future__ import annotations

import torch

from seqtex_core.errors import UsageError

_RHO = 7.0


def native_sigmas(
    steps: int, *, noise_max: float = 80.0, noise_min: float = 0.002
) -> tuple[float, ...]:
    """The levels of the model's own sampler, from its highest (0.988) down, then 0.

    Args:
        steps: sampling steps.
        noise_max: highest ``s``: 80 for Predict2, 200 for Predict2.5.
        noise_min: lowest ``s``: 0.002 and 0.01.

    Returns:
        ``steps + 1`` levels.

    Raises:
        UsageError: fewer than two steps, or noise that does not fall.
    """
    if not isinstance(steps, int) or steps < 2:
        raise UsageError("steps", expected="a whole number of at least 2", got=repr(steps))
    if not noise_max > noise_min > 0:
        raise UsageError(
            "noise", expected="noise_max > noise_min > 0", got=f"{noise_max}, {noise_min}"
        )
    ends = torch.tensor([noise_max, noise_min], dtype=torch.float64) ** (1 / _RHO)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    noise = (ends[0] + ramp * (ends[1] - ends[0])) ** _RHO
    return (*(noise / (1 + noise)).tolist(), 0.0)
