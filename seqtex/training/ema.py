"""Averages of the weights over training, with the power-function profile.

Source:
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models
    (arXiv 2312.02696), section 3.1 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import UsageError

MAX_SIGMA_REL = 0.28
"""Longer averages than this do not exist: an exponent of 0 (a plain mean) has 0.289."""


def profile_exponent(sigma_rel: float) -> float:
    """Exponent ``gamma`` of the profile ``t^gamma`` whose standard deviation is ``sigma_rel``.

    Args:
        sigma_rel: width of the profile as a share of the training so far, in (0, 0.28].

    Raises:
        UsageError: out of range.

    Source:
        ``sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))``, arXiv 2312.02696, Eq. 123.
    """
    if not 0 < sigma_rel <= MAX_SIGMA_REL:
        raise UsageError("sigma_rel", expected=f"above 0, to {MAX_SIGMA_REL}", got=str(sigma_rel))
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    real = roots[np.abs(roots.imag) < 1e-9].real
    return float(real.max())


def decay_at(step: int, exponent: float) -> float:
    """Share of the old average that survives step ``step`` (from 1): ``(1 - 1/t)^(gamma + 1)``."""
    return float((1.0 - 1.0 / step) ** (exponent + 1.0))


class PowerAverage:
    """Running averages of some parameters, one per profile width.

    Args:
        parameters: what is averaged, by name; fp32 copies are kept beside them, sharded alike.
        sigma_rels: widths of the profiles.

    Raises:
        UsageError: a width out of range or given twice.
    """

    def __init__(self, parameters: Mapping[str, Tensor], sigma_rels: Sequence[float]) -> None:
        if len(set(sigma_rels)) != len(sigma_rels) or not sigma_rels:
            raise UsageError("ema", expected="different widths, at least one", got=str(sigma_rels))
        self.sigma_rels = tuple(sigma_rels)
        self._exponents = [profile_exponent(s) for s in sigma_rels]
        self._parameters = parameters
        self.averages: list[dict[str, Tensor]] = [
            {name: p.detach().float().clone() for name, p in parameters.items()} for _ in sigma_rels
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step ``step`` (from 1); the first replaces everything."""
        for exponent, average in zip(self._exponents, self.averages, strict=True):
            share = 1.0 - decay_at(step, exponent)
            for name, parameter in self._parameters.items():
                average[name].lerp_(parameter.detach().float(), share)

    def average(self, sigma_rel: float) -> Mapping[str, Tensor]:
        """The average of one width.

        Raises:
            UsageError: not tracked.
        """
        if sigma_rel not in self.sigma_rels:
            raise UsageError(
                "sigma_rel",
                expected=f"a tracked width: {self.sigma_rels}",
                got=str(sigma_rel),
                remedy="Other widths are made from snapshots, see synthesize.",
            )
        return self.averages[self.sigma_rels.index(sigma_rel)]
