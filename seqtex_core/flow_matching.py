"""Rectified flow: noise levels, their sampling and weights, conversions and the loss.

``x_sigma = (1 - sigma) x0 + sigma eps`` with sigma 1 = pure noise, 0 = clean; the model predicts
``u = eps - x0``. (The paper writes ``t = 1 - sigma`` and ``V = -u``.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .checks import check_mapping, check_shape
from .errors import UsageError
from .noise import Generators, draw_indices

if TYPE_CHECKING:
    from .frame_plan import NoisySample

NUM_LEVELS = 1000
DEFAULT_SHIFT = 5.0
CLEAN_SIGMA_FLOOR = 0.05
"""``min_sigma`` of models that predict clean latents: their errors are blown up no further."""

_ROUNDING = 2.0**-23  # relative, of a division and a multiplication in float32
_FIRST_SIGMA_SLACK = 1e-6  # by which diffusers' UniPC lowers a first level of 1

Weighting = Literal["bell", "uniform"]


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards 1: ``shift * s / (1 + (shift - 1) * s)``; 0 and 1 stay.

    Raises:
        UsageError: ``shift`` is not positive.
    """
    if not shift > 0:
        raise UsageError("shift", expected="a positive number", got=str(shift))
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def inference_sigmas(steps: int, shift: float = DEFAULT_SHIFT) -> Tensor:
    """Sampling levels ``[steps + 1]``, float64, from 1 down to a final 0.

    The base levels are ``linspace(1, 1/1000, steps + 1)`` less the last one, then shifted, as in
    diffusers >= 0.37 with ``use_flow_sigmas`` (which lowers the first by 1e-6; this one does not),
    in its precision and order: the last bit decides about some of its whole timesteps.

    Raises:
        UsageError: ``steps`` < 1 or ``shift`` <= 0.
    """
    if not isinstance(steps, int) or steps < 1:
        raise UsageError("steps", expected="a whole number of at least 1", got=repr(steps))
    spacing = (1.0 / NUM_LEVELS - 1.0) / steps
    base = torch.tensor([1.0 + index * spacing for index in range(steps)], dtype=torch.float64)
    levels = shift_sigmas(base, shift)
    levels[0] = 1.0  # whatever the shift rounds it to
    return torch.cat([levels, base.new_zeros(1)])


def whole_timestep(sigma: float) -> float:
    """A noise level in whole thousandths, rounded down: 0.9932 becomes 0.993.

    The released system tells its model integer timesteps; its sampler, diffusers' UniPC, starts a
    hair below 1, so that the first of them is 999 and not 1000. On :func:`inference_sigmas` they
    are that sampler's, all of them. (diffusers' Euler sampler of flow matching tells its model
    fractions.)
    """
    below_one = min(sigma, 1.0 - _FIRST_SIGMA_SLACK)
    return math.floor(NUM_LEVELS * below_one) / NUM_LEVELS


def model_timesteps(sigma: Tensor) -> Tensor:
    """``1000 sigma`` in float32; a whole number where that is what ``sigma`` was made from.

    ``t / 1000`` times 1000 misses some whole ``t`` by one unit in the last place, which turns the
    fastest phases of a model's sinusoid by 3e-5.
    """
    steps = NUM_LEVELS * sigma.float()
    whole = steps.round()
    return torch.where((steps - whole).abs() <= _ROUNDING * whole, whole, steps)


def bell_weights(sigmas: Tensor) -> Tensor:
    """Loss weights of a table of levels: a bell around sigma 0.5, minimum 0, mean 1.

    ``exp(-2 (sigma - 0.5)^2)``, less its minimum over the table, divided by its mean: high at
    intermediate noise, 0 at pure noise, nearly 0 at the clean end (paper, Sec. 6.2).

    Args:
        sigmas: the whole table of levels that training draws from, ``[K]``.

    Raises:
        UsageError: all weights would be 0 (fewer than two distinct distances from 0.5).
    """
    if sigmas.numel() == 0:
        raise UsageError("sigmas", expected="a table of several levels", got="none")
    bell = torch.exp(-2 * (sigmas.double() - 0.5) ** 2)
    bell = bell - bell.min()
    if not bool(bell.sum() > 0):
        raise UsageError("sigmas", expected="a table of several levels", got=f"{sigmas.numel()}")
    return (bell / bell.mean()).float()


@dataclass(frozen=True, kw_only=True)
class SigmaSample:
    """Drawn noise levels, one per sample.

    Args:
        sigma: ``[B]`` in (0, 1].
        weight: loss weight of each level, ``[B]``.
    """

    sigma: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """Which noise levels training draws, and how much each counts.

    Args:
        num_levels: size of the table.
        shift: flow shift of the table.
        weighting: ``"bell"`` (see :func:`bell_weights`) or ``"uniform"``.

    Raises:
        UsageError: an unknown weighting, no levels, or a shift that is not positive.
    """

    num_levels: int = NUM_LEVELS
    shift: float = DEFAULT_SHIFT
    weighting: Weighting = "bell"

    def __post_init__(self) -> None:
        if self.weighting not in ("bell", "uniform"):
            raise UsageError("weighting", expected="'bell' or 'uniform'", got=repr(self.weighting))
        whole = isinstance(self.num_levels, int)
        if not whole or self.num_levels < 1 or not self.shift > 0:
            raise UsageError("TrainingSchedule", expected="positive numbers", got=str(self))

    @cached_property
    def sigmas(self) -> Tensor:
        """The table of levels, ``[num_levels]``, float32, from 1 down.

        Entry ``i`` is ``(num_levels - i) / num_levels``, shifted.
        """
        base = torch.arange(self.num_levels, 0, -1, dtype=torch.float64) / self.num_levels
        return shift_sigmas(base, self.shift).float()

    @cached_property
    def weights(self) -> Tensor:
        """The loss weight of every level, ``[num_levels]``, mean 1."""
        if self.weighting == "uniform":
            return torch.ones_like(self.sigmas)
        return bell_weights(self.sigmas)

    def sample_sigmas(
        self, batch: int, *, generator: Generators, device: torch.device | str = "cpu"
    ) -> SigmaSample:
        """One level per sample, its index uniform; all denoised frames of a sample share it.

        Raises:
            UsageError: the number of generators is not ``batch``.
        """
        index = draw_indices(batch, self.num_levels, generator=generator)
        return SigmaSample(
            sigma=self.sigmas[index].to(device), weight=self.weights[index].to(device)
        )


def expand_sigma(sigma: Tensor, like: Tensor) -> Tensor:
    """``sigma`` shaped to multiply latents ``like`` ``[B, C, F, H, W]``.

    Args:
        sigma: ``[]``, ``[B]``, or ``[B, F]``; B may be 1.
        like: the latents.

    Raises:
        UsageError: another shape.
    """
    if sigma.ndim == 0:
        return sigma
    batch = 1 if sigma.shape[0] == 1 else like.shape[0]
    if sigma.shape == (batch,):
        return sigma.view(-1, *[1] * (like.ndim - 1))
    if like.ndim == 5 and sigma.shape == (batch, like.shape[2]):
        return sigma[:, None, :, None, None]
    raise UsageError(
        "sigma",
        expected=f"shape [], [B] or [B, F] for latents {list(like.shape)}",
        got=str(list(sigma.shape)),
    )


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """``(1 - sigma) x0 + sigma eps``; exactly ``clean`` at sigma 0 and ``noise`` at sigma 1.

    Args:
        clean: ``[B, C, F, H, W]``.
        noise: of the same shape.
        sigma: see :func:`expand_sigma`.

    Raises:
        UsageError: shapes that do not fit.
    """
    level = _level(clean, noise, sigma, "noise")
    return (1 - level) * clean + level * noise


def velocity_to_clean(latents: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """``x0 = x_sigma - sigma u``; arguments and errors as in :func:`add_noise`."""
    level = _level(latents, velocity, sigma, "velocity")
    return latents - level * velocity


def velocity_to_noise(latents: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """``eps = x_sigma + (1 - sigma) u``; arguments and errors as in :func:`add_noise`."""
    level = _level(latents, velocity, sigma, "velocity")
    return latents + (1 - level) * velocity


def clean_to_velocity(
    latents: Tensor, clean: Tensor, sigma: Tensor | float, *, min_sigma: float = 1e-4
) -> Tensor:
    """``u = (x_sigma - x0) / sigma``, sigma taken as ``min_sigma`` below that.

    The squared error of ``u`` is then that of ``x0`` times ``1 / max(sigma, min_sigma)^2``.
    Arguments and errors as in :func:`add_noise`.
    """
    level = _level(latents, clean, sigma, "clean")
    floored = level.clamp_min(min_sigma) if isinstance(level, Tensor) else max(level, min_sigma)
    return (latents - clean) / floored


def _level(like: Tensor, other: Tensor, sigma: Tensor | float, name: str) -> Tensor | float:
    """``sigma`` to multiply ``like``, after the shapes of both operands were compared."""
    check_shape(name, other, like.shape, "the latents' shape")
    if not isinstance(sigma, Tensor):
        return sigma
    # levels in fp64 do not make narrower latents as wide
    return expand_sigma(sigma, like).to(torch.promote_types(like.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class FlowMatchingLoss:
    """The loss of one batch.

    Args:
        total: scalar, the groups summed (paper: MV + UV).
        groups: scalar per group, its share of ``total``.
        per_sample: ``[B]``, unweighted by noise level: for logging by sigma.
    """

    total: Tensor
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    per_sample: Tensor


def flow_matching_loss(
    velocity: Mapping[str, Tensor],
    sample: NoisySample,
    *,
    weight: Tensor | Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> FlowMatchingLoss:
    """Squared velocity error: mean in a frame, mean over a group's weighted frames, sum of groups.

    Conditioning and nonsense frames have weight 0 in ``sample``.

    Args:
        velocity: predicted ``u`` per group, ``[B, C, F, H, W]``.
        sample: what :meth:`FramePlan.training_sample` returned.
        weight: per sample ``[B]``, for example :attr:`SigmaSample.weight`, of all groups or by
            group. Default 1.
        masks: optional non-negative weights per group, broadcastable to ``[B, C, F, H, W]``; a
            frame's mean is weighted by them, and a frame whose mask is all 0 counts as 0.

    Raises:
        UsageError: a group to be trained is missing, shapes differ, a mask of a group that is not
            in the sample, or one with a negative weight (looked for on a CPU only).

    Source:
        arXiv 2507.04285, Eq. 4: ``E || u - (eps - S0) ||^2``.
    """
    check_mapping("velocity", velocity)
    weights = weight if isinstance(weight, Mapping) else dict.fromkeys(sample.latents, weight)
    _check_weights(sample, weights, {} if masks is None else masks)
    groups: dict[str, Tensor] = {}
    samples: dict[str, Tensor] = {}
    for name in sample.trained_groups:
        if name not in velocity or velocity[name].shape != sample.target[name].shape:
            raise UsageError(
                f"velocity[{name!r}]",
                expected=f"shape {tuple(sample.target[name].shape)}",
                got=str(tuple(velocity[name].shape)) if name in velocity else "nothing",
            )
        mask = None if masks is None else masks.get(name)
        frames = _frame_errors(velocity[name], sample.target[name], mask)
        frame_weight = sample.frame_weights[name].to(frames)
        total = frame_weight.sum(dim=1).clamp_min(torch.finfo(frames.dtype).tiny)
        samples[name] = (frames * frame_weight).sum(dim=1) / total
        own = weights.get(name)
        scaled = samples[name] if own is None else samples[name] * own.to(frames)
        groups[name] = scaled.mean()
    return FlowMatchingLoss(
        total=torch.stack(list(groups.values())).sum(),
        groups=groups,
        per_sample=torch.stack(list(samples.values())).sum(dim=0),
    )


def _check_weights(
    sample: NoisySample, weights: Mapping[str, Tensor | None], masks: Mapping[str, Tensor]
) -> None:
    check_mapping("masks", masks)
    if unknown := sorted(set(masks) - set(sample.latents)):
        raise UsageError("masks", expected=f"groups of {[*sample.latents]}", got=str(unknown))
    for name, mask in masks.items():
        full = sample.target[name].shape
        if mask.ndim != 5 or any(m not in (1, n) for m, n in zip(mask.shape, full, strict=True)):
            raise UsageError(
                f"masks[{name!r}]",
                expected=f"broadcastable to {list(full)}",
                got=str(list(mask.shape)),
            )
        if mask.device.type == "cpu" and mask.dtype != torch.bool and bool((mask < 0).any()):
            raise UsageError(f"masks[{name!r}]", expected="weights of 0 or more", got="negative")
    if unknown := sorted(set(weights) - set(sample.latents)):
        raise UsageError("weight", expected=f"groups of {[*sample.latents]}", got=str(unknown))
    batch = next(iter(sample.target.values())).shape[0]
    for weight in weights.values():
        if weight is not None:
            check_shape("weight", weight, (batch,), "B")


def _frame_errors(velocity: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error of every frame, ``[B, F]``, in float32."""
    squared = (velocity.float() - target.float()).square()
    if mask is None:
        return squared.mean(dim=(1, 3, 4))
    full = mask.to(squared).expand_as(squared)
    mass = full.sum(dim=(1, 3, 4))
    return (squared * full).sum(dim=(1, 3, 4)) / mass.clamp_min(torch.finfo(mass.dtype).tiny)
