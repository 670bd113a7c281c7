"""Frame plans: a task as data (groups, roles, noise levels, locks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .checks import check_levels, check_mapping, check_shape, check_type
from .errors import UsageError
from .flow_matching import add_noise
from .frame_run import FrameRun, KnownLatents
from .frames import Stream
from .noise import Generators, draw_noise
from .roles import CONDITION_SIGMA, NONSENSE_SIGMA, FrameState, Role

DEFAULT_STREAMS: Mapping[str, Stream] = {"views": "mv", "projection": "uv", "texture": "uv"}
"""Streams of the groups that the built-in tasks name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisySample:
    """One training batch; every mapping has the groups that the model must compute.

    Args:
        latents: model input per group, ``[B, C, F, H, W]``.
        sigmas: noise level of every frame, ``[B, F]``.
        target: velocity ``eps - x0``, ``[B, C, F, H, W]``.
        frame_weights: loss weight of every frame, ``[B, F]``: 1 denoised, 0 otherwise.
        trained_groups: groups with a frame of weight above 0.
    """

    latents: Mapping[str, Tensor]
    sigmas: Mapping[str, Tensor]
    target: Mapping[str, Tensor]
    frame_weights: Mapping[str, Tensor]
    trained_groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FramePlan:
    """What every frame of a sequence is; training and sampling both follow it.

    Args:
        name: of the task.
        groups: states of the frames of every group, in the order of the sequence.
        condition_sigma: noise level of conditioning frames.
        nonsense_sigma: noise level that the model is told for nonsense frames; their content is
            pure noise whatever it is.
        fresh_condition_noise: conditioning frames get new noise at every sampling step (as
            released); ``False`` keeps the noise of the start.
        whole_timesteps: while sampling, tell the model the current level in whole thousandths,
            rounded down (as released, see :func:`whole_timestep`); the sampler's own levels and
            those of the other roles stay exact. Without effect on training.

    Raises:
        UsageError: no group, an empty group, what is no ``FrameState``, no frame to denoise, or a
            level out of range.
    """

    name: str
    groups: Mapping[str, tuple[FrameState, ...]] = field(default_factory=dict)
    condition_sigma: float = CONDITION_SIGMA
    nonsense_sigma: float = NONSENSE_SIGMA
    fresh_condition_noise: bool = True
    whole_timesteps: bool = False

    def __post_init__(self) -> None:
        check_mapping("groups", self.groups, of="frame states")
        if not self.groups or not all(self.groups.values()):
            raise UsageError("frame plan", expected="groups with frames", got=str(self.groups))
        for group, states in self.groups.items():
            if not all(isinstance(state, FrameState) for state in states):
                raise UsageError(
                    f"frames of {group!r}",
                    expected="frame states such as CONDITION, DENOISE, FrameState(role=...)",
                    got=repr(states),
                )
        if not any(self.has_role(group, Role.DENOISE) for group in self.groups):
            raise UsageError("frame plan", expected="a frame to denoise", got="none")
        for sigma in (self.condition_sigma, self.nonsense_sigma):
            if not 0.0 <= sigma <= 1.0:
                raise UsageError("noise level", expected="a number in [0, 1]", got=str(sigma))

    def has_role(self, group: str, role: Role) -> bool:
        """Whether a frame of ``group`` has ``role``."""
        return bool(self.frames_with(group, role))

    def frames_with(self, group: str, role: Role) -> tuple[int, ...]:
        """Indices of the frames of ``group`` that have ``role``."""
        return tuple(i for i, state in enumerate(self._states(group)) if state.role is role)

    def locked_frames(self, group: str) -> tuple[int, ...]:
        """Indices of the frames of ``group`` that are locked as a whole."""
        return tuple(i for i, state in enumerate(self._states(group)) if state.lock)

    def frame_sigmas(self, group: str, sigma: float) -> list[float]:
        """Noise level of every frame of ``group`` when the current level is ``sigma``."""
        fixed = {Role.CONDITION: self.condition_sigma, Role.NONSENSE: self.nonsense_sigma}
        levels = []
        for state in self._states(group):
            level = fixed.get(state.role, sigma) if state.sigma is None else state.sigma
            levels.append(level)
        return levels

    def sigmas(self, sigma: Tensor) -> dict[str, Tensor]:
        """Noise level of every frame, ``{group: [B, F]}``, for current levels ``sigma`` ``[B]``.

        Raises:
            UsageError: ``sigma`` has another shape, or levels outside [0, 1].
        """
        check_shape("sigma", sigma, (None,), "B")
        check_levels("sigma", sigma)
        levels = {}
        for group in self.groups:
            # x + slope * sigma with slope 0 or 1, so that no value is read back from the device
            low = sigma.new_tensor(self.frame_sigmas(group, 0.0))
            slope = sigma.new_zeros(len(low))
            slope[list(self.frames_with(group, Role.DENOISE))] = 1.0
            levels[group] = low + slope * sigma[:, None]
        return levels

    def required_groups(self, streams: Mapping[str, Stream] | None = None) -> tuple[str, ...]:
        """Groups that the model must compute; the others have no influence on the result.

        Left out are groups that only have nonsense frames and that no denoised group reads.

        Args:
            streams: stream of every group (``uv`` reads all, ``mv`` only ``mv``). Default: views
                in ``mv``, texture in ``uv``; a group of unknown stream is never left out.
        """
        kept = []
        for group in self.groups:
            nonsense_only = len(self.frames_with(group, Role.NONSENSE)) == len(self.groups[group])
            if not nonsense_only or self._is_read(group, streams):
                kept.append(group)
        return tuple(kept)

    def required_streams(self, streams: Mapping[str, Stream] | None = None) -> set[Stream]:
        """Streams that have a required group."""
        known = DEFAULT_STREAMS if streams is None else streams
        return {known[group] for group in self.required_groups(streams) if group in known}

    def unread_conditions(self, streams: Mapping[str, Stream] | None = None) -> tuple[str, ...]:
        """Groups whose conditioning frames cannot influence any denoised frame.

        In a model with decoupled branches the views never read the texture, so that a texture
        given as a condition for views has no effect; callers should say so.
        """
        return tuple(
            group
            for group in self.groups
            if self.has_role(group, Role.CONDITION) and not self._is_read(group, streams)
        )

    def with_frame(self, group: str, frame: int, state: FrameState) -> FramePlan:
        """The same plan with another state for one frame.

        Raises:
            UsageError: no such group or frame.
        """
        states = list(self._states(group))
        if not 0 <= frame < len(states):
            raise UsageError(
                f"frame of {group!r}", expected=f"0 to {len(states) - 1}", got=str(frame)
            )
        states[frame] = state
        return replace(self, groups={**self.groups, group: tuple(states)})

    def training_sample(
        self,
        clean: Mapping[str, Tensor],
        sigma: Tensor,
        *,
        generator: Generators,
        streams: Mapping[str, Stream] | None = None,
    ) -> NoisySample:
        """A training batch: every frame at the noise level of its role.

        Noise is drawn group by group in the order of the plan, for required groups only. With one
        generator per sample the batch may be split without changing any sample.

        Args:
            clean: clean latents of every required group, ``[B, C, F, H, W]``.
            sigma: current noise level of every sample, ``[B]``, in [0, 1].
            generator: one, or one per sample.
            streams: see :meth:`required_groups`.

        Raises:
            UsageError: latents missing or of another shape, or levels outside [0, 1].
        """
        check_mapping("clean", clean)
        groups = self.required_groups(streams)
        levels = self.sigmas(sigma)
        latents: dict[str, Tensor] = {}
        target: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for group in groups:
            x0 = self._clean_of(clean, group, len(sigma))
            noise = draw_noise(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
            noisy = add_noise(x0, noise, levels[group].to(x0))
            for frame in self.frames_with(group, Role.NONSENSE):
                noisy[:, :, frame] = noise[:, :, frame]
            latents[group], target[group] = noisy, noise - x0
            weight = sigma.new_zeros(len(sigma), len(self.groups[group]))
            weight[:, list(self.frames_with(group, Role.DENOISE))] = 1.0
            weights[group] = weight
        return NoisySample(
            latents=latents,
            sigmas={group: levels[group] for group in groups},
            target=target,
            frame_weights=weights,
            trained_groups=tuple(g for g in groups if self.has_role(g, Role.DENOISE)),
        )

    def start(
        self,
        known: KnownLatents,
        *,
        sigmas: Sequence[float],
        generator: Generators,
        streams: Mapping[str, Stream] | None = None,
    ) -> FrameRun:
        """The sampling state of this plan, start noise drawn; see :class:`FrameRun`."""
        return FrameRun(self, known, sigmas=sigmas, generator=generator, streams=streams)

    def to_config(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        groups = {
            group: [
                {"role": state.role.value, "sigma": state.sigma, "lock": state.lock}
                for state in states
            ]
            for group, states in self.groups.items()
        }
        return {
            "name": self.name,
            "groups": groups,
            "condition_sigma": self.condition_sigma,
            "nonsense_sigma": self.nonsense_sigma,
            "fresh_condition_noise": self.fresh_condition_noise,
            "whole_timesteps": self.whole_timesteps,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FramePlan:
        """The plan that :meth:`to_config` wrote.

        Raises:
            UsageError: keys missing or unknown, or values that no plan can have.
        """
        try:
            groups = {
                group: tuple(
                    FrameState(**{**state, "role": Role(state["role"])}) for state in states
                )
                for group, states in config["groups"].items()
            }
            return cls(**{**config, "groups": groups})
        except UsageError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                "frame plan", expected="the keys that to_config writes", got=repr(error)
            ) from error

    def _states(self, group: str) -> tuple[FrameState, ...]:
        if group not in self.groups:
            raise UsageError("frame group", expected=f"one of {list(self.groups)}", got=repr(group))
        return self.groups[group]

    def _is_read(self, group: str, streams: Mapping[str, Stream] | None) -> bool:
        """Whether a group with frames to denoise is, or reads, ``group``."""
        known = DEFAULT_STREAMS if streams is None else streams
        source = known.get(group)
        for reader in self.groups:
            if not self.has_role(reader, Role.DENOISE):
                continue
            stream = known.get(reader)
            if reader == group or source in (None, "mv") or stream in (None, "uv"):
                return True
        return False

    def _clean_of(self, clean: Mapping[str, Tensor], group: str, batch: int) -> Tensor:
        expected = f"latents [{batch}, C, {len(self.groups[group])}, H, W]"
        if group not in clean:
            raise UsageError(f"clean[{group!r}]", expected=expected, got="nothing")
        x0 = clean[group]
        check_type(f"clean[{group!r}]", x0, Tensor)
        if x0.ndim != 5 or x0.shape[0] != batch or x0.shape[2] != len(self.groups[group]):
            raise UsageError(f"clean[{group!r}]", expected=expected, got=str(tuple(x0.shape)))
        if not torch.is_floating_point(x0):
            raise UsageError(f"clean[{group!r}]", expected="a float dtype", got=str(x0.dtype))
        return x0
