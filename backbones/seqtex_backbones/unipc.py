"""The UniPC sampler of diffusers, fed with our own noise levels; and the table of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import MissingDependencyError, UnsupportedError, UsageError
from seqtex_core.registry import Registry
from seqtex_core.samplers import SamplerFactory, check_sigmas, level_list

SAMPLERS: Registry[SamplerFactory] = Registry(
    "sampler",
    {
        "euler": "seqtex_core.samplers:EulerSampler",
        "unipc": "seqtex_backbones.unipc:UniPCSampler",
    },
    entry_point_group="seqtex.samplers",
)
"""Factories of samplers: noise levels in, one sampler for one group out."""

MIN_DIFFUSERS = (0, 37)
_FIRST_SIGMA_SLACK = 1e-6  # diffusers lowers a first level of 1 by this, to keep its logs finite


class UniPCSampler:
    """Multistep predictor-corrector steps (UniPC, arXiv 2302.04867) on diffusers' scheduler.

    The scheduler gets the levels as they are (its own flow shift is 1). A perfect velocity
    recovers the clean latents to 5e-6. On CUDA the corrector solves a 2x2 system, one short
    synchronisation per step from the third step on.

    Args:
        sigmas: noise levels ``[steps + 1]`` falling to 0.
        solver_order: order of the multistep method.
        solver_type: ``"bh2"``, or ``"bh1"`` for fewer than ten steps.

    Raises:
        UsageError: a number of steps, levels that do not fall to 0, or an unknown order or type.
        MissingDependencyError: diffusers is missing or older than 0.37.
        UnsupportedError: this diffusers did not take the levels as given.
    """

    def __init__(
        self,
        sigmas: Tensor | Sequence[float],
        *,
        solver_order: int = 2,
        solver_type: Literal["bh1", "bh2"] = "bh2",
    ) -> None:
        levels = level_list(sigmas)
        check_sigmas(levels)
        if solver_order < 1:
            raise UsageError("solver_order", expected="at least 1", got=str(solver_order))
        if solver_type not in ("bh1", "bh2"):
            raise UsageError("solver_type", expected="'bh1' or 'bh2'", got=repr(solver_type))
        self._scheduler: Any = _scheduler_class()(
            num_train_timesteps=1000,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=1.0,
            solver_order=solver_order,
            solver_type=solver_type,
        )
        self._scheduler.set_timesteps(sigmas=np.asarray(levels[:-1], dtype=np.float64))
        self._scheduler.set_begin_index(0)
        self._next = 0
        _check_levels(self._scheduler.sigmas, levels)

    @property
    def sigmas(self) -> Tensor:
        """The levels that the scheduler works with, ``[steps + 1]``."""
        levels: Tensor = self._scheduler.sigmas
        return levels

    def step(self, velocity: Tensor, latents: Tensor, index: int) -> Tensor:
        """Latents at level ``index + 1``; see :meth:`seqtex_core.samplers.Sampler.step`.

        Raises:
            UsageError: ``index`` is not the next step; the method has memory.
        """
        if index != self._next or index >= len(self._scheduler.timesteps):
            raise UsageError(
                "step index",
                expected=f"{self._next} of {len(self._scheduler.timesteps)}",
                got=str(index),
                remedy="Make a new sampler for every run and group.",
            )
        self._next += 1
        timestep = self._scheduler.timesteps[index]
        moved: Tensor = self._scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return moved


def check_diffusers_version(version: str) -> None:
    """Refuse a diffusers whose UniPC does not take our noise levels.

    Raises:
        MissingDependencyError: older than 0.37.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < MIN_DIFFUSERS:
        raise MissingDependencyError(
            "diffusers",
            expected=">= 0.37, whose UniPC takes noise levels from outside",
            got=version,
            remedy="pip install -U 'diffusers>=0.37', or use the 'euler' sampler.",
        )


def _scheduler_class() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependencyError(
            "diffusers", expected="the package", got=str(error), remedy="pip install diffusers"
        ) from error
    check_diffusers_version(diffusers.__version__)
    return diffusers.UniPCMultistepScheduler


def _check_levels(taken: Tensor, given: Sequence[float]) -> None:
    wanted = torch.tensor(given, dtype=torch.float64)
    same_length = taken.shape == wanted.shape
    # float32 storage (6e-8) on top of the slack of the first level
    slack = _FIRST_SIGMA_SLACK + 1.2e-7
    if not same_length or bool((taken.double() - wanted).abs().max() > slack):
        raise UnsupportedError(
            "diffusers UniPCMultistepScheduler",
            expected="the noise levels as passed",
            got="other levels",
            remedy="Use the 'euler' sampler and report the diffusers version.",
        )
