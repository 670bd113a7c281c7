"""CogVideoX's noise schedule, and how it maps to rectified flow exactly.

CogVideoX adds noise as ``x_t = a x0 + s eps`` with ``a^2 + s^2 = 1`` (variance preserving) and
predicts ``v = a eps - s x0``. Divided by ``a + s`` that is the library's
``x_sigma = (1 - sigma) x0 + sigma eps`` with ``sigma = s / (a + s)``; so a level has one timestep
and one scale, and a prediction has one velocity. Nothing is approximated but the timestep between
two entries of the schedule's table.

Source:
    CogVideoX (arXiv 2408.06072), section 2.5; Lin et al. 2023 (arXiv 2305.08891) for zero terminal
    SNR.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import expand_sigma

NUM_TIMESTEPS = 1000
_BETA_ENDS = (0.00085, 0.012)
_ROUNDING = 2.0**-23  # relative, of levels in fp32: twice that of one rounding


@dataclass(frozen=True, kw_only=True)
class VPSchedule:
    """1000 timesteps between nearly clean and pure noise.

    Args:
        snr_shift: divides the signal-to-noise ratio; 3 for the 2B model, 1 for the others.

    Raises:
        UsageError: ``snr_shift`` is not positive.
    """

    snr_shift: float = 1.0

    def __post_init__(self) -> None:
        if not self.snr_shift > 0:
            raise UsageError("snr_shift", expected="a positive number", got=str(self.snr_shift))

    @property
    def alphas_cumprod(self) -> Tensor:
        """``a^2`` by timestep, fp64 ``[1000]`` on CPU; the last is exactly 0."""
        return _alphas_cumprod(self.snr_shift)

    @property
    def sigmas(self) -> Tensor:
        """Noise level by timestep, fp64 ``[1000]`` on CPU, strictly rising to exactly 1."""
        return _sigmas(self.snr_shift)

    def timesteps(self, sigma: Tensor) -> Tensor:
        """The timestep of every level, fp32, shaped like ``sigma``; between entries, fractional.

        Levels are read in fp32. Those below the table's first (0.028, or 0.048 for the 2B model)
        get timestep 0. The level of a whole timestep gives that timestep back.
        """
        segments = _segments(self.snr_shift, sigma.device)
        level = sigma.float().contiguous()
        index = (torch.searchsorted(segments.starts, level) - 1).clamp(min=0)
        slope = segments.slopes[index]
        above_start = level - segments.starts[index] - segments.rests[index]
        part = (above_start * slope).clamp(0.0, 1.0)
        whole = part.round()
        is_whole = (part - whole).abs() <= _ROUNDING * level * slope
        return index + torch.where(is_whole, whole, part)

    def native_sigmas(self, steps: int) -> list[float]:
        """Levels ``[steps + 1]`` of the model's own timesteps (trailing spacing), last 0.

        The library's Euler sampler on these levels is deterministic DDIM. It is that of diffusers
        where ``steps`` divides 1000. For other numbers diffusers visits the same timesteps (and
        for some, such as 61, one of -1 after the last) but steps to ``t - 1000 // steps``, which
        is beside the next one.

        Raises:
            UsageError: ``steps`` is no whole number from 1 to 1000.
        """
        if not isinstance(steps, int) or not 1 <= steps <= NUM_TIMESTEPS:
            expected = f"a whole number from 1 to {NUM_TIMESTEPS}"
            raise UsageError("steps", expected=expected, got=repr(steps))
        # ties between two timesteps fall as the rounding of this difference says, as in diffusers
        spacing = (NUM_TIMESTEPS - NUM_TIMESTEPS / steps) - NUM_TIMESTEPS
        timesteps = [round(NUM_TIMESTEPS + index * spacing) - 1 for index in range(steps)]
        return [*self.sigmas[timesteps].tolist(), 0.0]


def to_vp(latents: Tensor, sigma: Tensor) -> Tensor:
    """``x_t`` from ``x_sigma [B, C, F, H, W]`` with levels ``[B, F]``, in its dtype."""
    wide = latents.to(torch.promote_types(latents.dtype, torch.float32))
    return (wide / _norm(sigma, wide)).to(latents.dtype)


def v_to_velocity(prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
    """``u = eps - x0`` from ``v``, ``x_sigma`` and levels ``[B, F]``, in ``v``'s dtype.

    ``u = (s - a) x_t + (a + s) v``, which is ``((2 sigma - 1) / m^2) x_sigma + v / m`` with
    ``m = 1 / (a + s)``.
    """
    wide = torch.promote_types(prediction.dtype, torch.float32)
    noisy, predicted = latents.to(wide), prediction.to(wide)
    level, norm = expand_sigma(sigma, noisy), _norm(sigma, noisy)
    return ((2 * level - 1) / norm.square() * noisy + predicted / norm).to(prediction.dtype)


def _norm(sigma: Tensor, like: Tensor) -> Tensor:
    """``m = sqrt((1 - sigma)^2 + sigma^2)``, broadcastable to ``like``."""
    level = expand_sigma(sigma, like)
    return ((1 - level).square() + level.square()).sqrt()


@lru_cache(maxsize=8)
def _alphas_cumprod(snr_shift: float) -> Tensor:
    with torch.inference_mode(False):  # kept, and perhaps used in training later
        low, high = (end**0.5 for end in _BETA_ENDS)
        betas = torch.linspace(low, high, NUM_TIMESTEPS, dtype=torch.float64, device="cpu") ** 2
        alphas = (1 - betas).cumprod(0)
        alphas = alphas / (snr_shift + (1 - snr_shift) * alphas)
        signal = alphas.sqrt()
        first, last = signal[0].clone(), signal[-1].clone()
        return ((signal - last) * first / (first - last)).square()


@lru_cache(maxsize=8)
def _sigmas(snr_shift: float) -> Tensor:
    alphas = _alphas_cumprod(snr_shift)
    with torch.inference_mode(False):
        signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
        return noise / (signal + noise)


class _Segments(NamedTuple):
    """What lies between two entries of the schedule's table, in fp32, ``[999]`` each.

    Attributes:
        starts: level of the lower entry.
        rests: what the rounding of ``starts`` left over.
        slopes: timesteps per level.
    """

    starts: Tensor
    rests: Tensor
    slopes: Tensor


@lru_cache(maxsize=8)
def _segments(snr_shift: float, device: torch.device) -> _Segments:
    """Made in fp64 once; kept per device, as the host waits for every move."""
    levels = _sigmas(snr_shift)
    with torch.inference_mode(False):
        starts = levels[:-1].float()
        rests, slopes = (levels[:-1] - starts.double()).float(), (1 / levels.diff()).float()
        return _Segments(*(table.to(device) for table in (starts, rests, slopes)))
