"""A frame plan being sampled: start noise, model inputs per step, known content put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import check_type
from .errors import UsageError
from .flow_matching import add_noise, whole_timestep
from .frames import Stream
from .noise import Generators, draw_noise
from .roles import Role
from .samplers import check_sigmas

if TYPE_CHECKING:
    from .frame_plan import FramePlan

Latents = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownLatents:
    """Sizes of the groups, and what is known of their content before sampling.

    Args:
        shapes: ``[B, C, F, H, W]`` of every group that has no entry in ``clean``.
        clean: clean latents of groups that have conditioning or locked frames, or whose sampling
            starts below sigma 1. The content of other frames in them is not read.
        lock_masks: per group a bool mask ``[B or 1, 1, F, H, W]`` at latent resolution; ``True``
            texels are locked. Locks of whole frames are in the plan.
        device: where sampling runs.
        dtype: of the latents between steps.

    Raises:
        UsageError: a dtype that is not floating point.
    """

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    clean: Mapping[str, Tensor] = field(default_factory=dict)
    lock_masks: Mapping[str, Tensor] = field(default_factory=dict)
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if not self.dtype.is_floating_point:
            raise UsageError("dtype", expected="a floating-point dtype", got=str(self.dtype))

    def shape(self, group: str, num_frames: int) -> tuple[int, ...]:
        """``[B, C, F, H, W]`` of ``group``.

        Raises:
            UsageError: unknown, contradictory, or not ``num_frames`` frames.
        """
        given = [tuple(self.shapes[group])] if group in self.shapes else []
        given += [tuple(self.clean[group].shape)] if group in self.clean else []
        if not given or len(set(given)) > 1 or len(given[0]) != 5 or given[0][2] != num_frames:
            raise UsageError(
                f"latents of {group!r}",
                expected=f"one shape [B, C, {num_frames}, H, W]",
                got=", ".join(map(str, given)) or "nothing",
            )
        return given[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInput:
    """What the model sees at one step.

    Args:
        latents: per required group ``[B, C, F, H, W]``.
        sigmas: noise level that the model is told of every frame, ``[B, F]``.
    """

    latents: Latents
    sigmas: dict[str, Tensor]


class FrameRun:
    """One sampling run of a plan; made by :meth:`FramePlan.start`.

    Noise is drawn group by group in the order of the plan: first the start noise of all required
    groups, then, at every step, fresh noise for the conditioning frames of each group. Locked
    content is put back with its start noise, which is its exact path under the true velocity.

    Args:
        plan: the plan.
        known: sizes and known content.
        sigmas: noise levels of the run, first to last.
        generator: one, or one per sample.
        streams: see :meth:`FramePlan.required_groups`.

    Raises:
        UsageError: known content missing, shapes or masks that do not fit, bad levels.
    """

    def __init__(
        self,
        plan: FramePlan,
        known: KnownLatents,
        *,
        sigmas: Sequence[float],
        generator: Generators,
        streams: Mapping[str, Stream] | None = None,
    ) -> None:
        check_sigmas(sigmas)
        check_type("known", known, KnownLatents, remedy="Use KnownLatents(clean=...).")
        _check_names(plan, known)
        self.plan = plan
        self.sigmas = tuple(sigmas)
        self.groups = plan.required_groups(streams)
        _check_locks(self.groups, known)
        self._generator = generator
        self._runs = {
            group: _GroupRun(plan, group, known, self.sigmas, generator) for group in self.groups
        }
        batches = {run.shape[0] for run in self._runs.values()}
        if len(batches) > 1:
            raise UsageError("latents", expected="one batch size", got=str(sorted(batches)))

    @property
    def stepped_groups(self) -> tuple[str, ...]:
        """Groups with frames to denoise: the ones that a sampler moves."""
        return tuple(g for g in self.groups if self.plan.has_role(g, Role.DENOISE))

    def initial_latents(self) -> Latents:
        """Latents before the first step: noise, mixed with the clean ones below sigma 1."""
        return {group: run.initial(self.sigmas[0]) for group, run in self._runs.items()}

    def prepare_step(self, latents: Mapping[str, Tensor], index: int) -> ModelInput:
        """Model input of step ``index``: every frame at the content and level of its role."""
        inputs = {
            group: run.model_input(latents[group], index, self._generator)
            for group, run in self._runs.items()
        }
        return ModelInput(
            latents=inputs, sigmas={group: run.levels(index) for group, run in self._runs.items()}
        )

    def exact_sigmas(self, group: str, index: int) -> Tensor:
        """True noise level of every frame at step ``index``, ``[B, F]``.

        It differs from what the model is told where the plan has ``whole_timesteps``.
        """
        return self._runs[group].exact_levels(index)

    def finish(self, latents: Mapping[str, Tensor]) -> Latents:
        """Latents with conditioning frames and locked content equal to the clean ones, bit by bit.

        Nonsense frames come out as noise.
        """
        return {group: run.finish(latents[group]) for group, run in self._runs.items()}


class _GroupRun:
    """Constants of one group, on the device, so that a step reads nothing back."""

    def __init__(
        self,
        plan: FramePlan,
        group: str,
        known: KnownLatents,
        sigmas: tuple[float, ...],
        generator: Generators,
    ) -> None:
        self.group = group
        self.sigmas = sigmas
        self.shape = known.shape(group, len(plan.groups[group]))
        device, dtype = known.device, known.dtype
        clean = known.clean.get(group)
        self.clean = None if clean is None else clean.detach().to(device=device, dtype=dtype)
        self.noise = draw_noise(self.shape, generator=generator, device=device, dtype=dtype)
        conditions = plan.frames_with(group, Role.CONDITION)
        self.condition_index = _index(conditions, device)
        levels = [plan.frame_sigmas(group, 1.0)[i] for i in conditions]
        self.condition_sigma = torch.tensor(levels, device=device, dtype=dtype).view(1, 1, -1, 1, 1)
        self.fresh = plan.fresh_condition_noise and any(levels)
        nonsense = plan.frames_with(group, Role.NONSENSE)
        self.nonsense_index = _index(nonsense, device)
        exact = [plan.frame_sigmas(group, sigma) for sigma in sigmas]
        self.exact_table = torch.tensor(exact, dtype=torch.float32, device=device)
        self.table = self.exact_table
        if plan.whole_timesteps:
            told = [plan.frame_sigmas(group, whole_timestep(sigma)) for sigma in sigmas]
            self.table = torch.tensor(told, dtype=torch.float32, device=device)
        self.lock = self._lock_mask(plan.locked_frames(group), known)
        if self.clean is None and (conditions or self.lock is not None):
            raise UsageError(
                f"clean latents of {group!r}",
                expected="latents, because it has conditioning or locked frames",
                got="nothing",
            )

    def levels(self, index: int) -> Tensor:
        row: Tensor = self.table[index]
        return row.expand(self.shape[0], -1)

    def exact_levels(self, index: int) -> Tensor:
        row: Tensor = self.exact_table[index]
        return row.expand(self.shape[0], -1)

    def initial(self, sigma: float) -> Tensor:
        if sigma == 1.0:
            return self.noise.clone()
        if self.clean is None:
            raise UsageError(
                f"clean latents of {self.group!r}",
                expected="latents, because sampling starts below sigma 1",
                got="nothing",
            )
        return add_noise(self.clean, self.noise, sigma)

    def model_input(self, latents: Tensor, index: int, generator: Generators) -> Tensor:
        x = latents
        if self.lock is not None:
            x = torch.where(self.lock, add_noise(self._known, self.noise, self.sigmas[index]), x)
        if self.condition_index.numel():
            clean = self._known.index_select(2, self.condition_index)
            noise = self._condition_noise(clean, generator)
            noisy = (1 - self.condition_sigma) * clean + self.condition_sigma * noise
            x = x.index_copy(2, self.condition_index, noisy)
        if self.nonsense_index.numel():
            noise = self.noise.index_select(2, self.nonsense_index)
            x = x.index_copy(2, self.nonsense_index, noise)
        return x

    def finish(self, latents: Tensor) -> Tensor:
        x = latents if self.lock is None else torch.where(self.lock, self._known, latents)
        if self.condition_index.numel():
            clean = self._known.index_select(2, self.condition_index)
            x = x.index_copy(2, self.condition_index, clean)
        if self.nonsense_index.numel():
            noise = self.noise.index_select(2, self.nonsense_index)
            x = x.index_copy(2, self.nonsense_index, noise)
        return x

    @property
    def _known(self) -> Tensor:
        assert self.clean is not None, "checked when the run was made"
        return self.clean

    def _condition_noise(self, clean: Tensor, generator: Generators) -> Tensor:
        if not self.fresh:
            return self.noise.index_select(2, self.condition_index)
        return draw_noise(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)

    def _lock_mask(self, frames: tuple[int, ...], known: KnownLatents) -> Tensor | None:
        mask = known.lock_masks.get(self.group)
        if mask is None and not frames:
            return None
        batch, _, num_frames, height, width = self.shape
        full = torch.zeros(1, 1, num_frames, 1, 1, dtype=torch.bool)
        full[:, :, list(frames)] = True
        if mask is None:
            return full.to(known.device)
        allowed = [(b, 1, num_frames, height, width) for b in (1, batch)]
        if mask.dtype != torch.bool or tuple(mask.shape) not in allowed:
            raise UsageError(
                f"lock_masks[{self.group!r}]",
                expected=f"bool of shape {allowed[-1]} (or batch 1)",
                got=f"{mask.dtype} {tuple(mask.shape)}",
            )
        return mask.to(known.device) | full.to(known.device)


def _index(frames: tuple[int, ...], device: torch.device | str) -> Tensor:
    return torch.tensor(frames, dtype=torch.int64, device=device)


def _check_names(plan: FramePlan, known: KnownLatents) -> None:
    named = {*known.shapes, *known.clean, *known.lock_masks}
    if unknown := sorted(named - set(plan.groups)):
        raise UsageError("latents", expected=f"groups {list(plan.groups)}", got=str(unknown))


def _check_locks(groups: tuple[str, ...], known: KnownLatents) -> None:
    if idle := sorted(set(known.lock_masks) - set(groups)):
        raise UsageError(
            "lock_masks",
            expected=f"groups among {list(groups)}",
            got=f"{idle}, not computed in this task",
        )
