"""Frame roles: what a frame is in a task, and the noise level that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .errors import UsageError

CONDITION_BASE_LEVEL = 0.015
"""k_min before the flow shift: index 15 of 1000 (paper, Tab. 1)."""

CONDITION_SIGMA = 5.0 * CONDITION_BASE_LEVEL / (1.0 + 4.0 * CONDITION_BASE_LEVEL)
"""k_min as a noise level, 0.0707547: the base level shifted by 5.

It is kept as a level, not as an index, because the same index means another level in another
model's schedule.
"""

NONSENSE_SIGMA = 1.0
"""k_max: pure noise."""


class Role(Enum):
    """The part a frame plays (paper, Sec. 3.4)."""

    DENOISE = "denoise"
    """DF: made by the model; its noise level is the current one."""

    CONDITION = "condition"
    """CF: given; the model sees it at a small fixed noise level."""

    NONSENSE = "nonsense"
    """NF: carries nothing; the model sees pure noise."""


@dataclass(frozen=True, kw_only=True)
class FrameState:
    """One frame of a plan.

    Args:
        role: what the frame is.
        sigma: fixed noise level in [0, 1] instead of the role's own; not for denoised frames,
            whose level is the current one.
        lock: the frame is denoised along with the others but its content is known: it is put back
            at the current noise level at every sampling step and comes out equal to the clean
            latents. Denoised frames only; locks have no effect on training.

    Raises:
        UsageError: not a role, a level out of range, or an option that the role cannot have.
    """

    role: Role
    sigma: float | None = None
    lock: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.role, Role):
            raise UsageError("role", expected="a Role", got=repr(self.role))
        if self.sigma is not None and not 0.0 <= self.sigma <= 1.0:
            raise UsageError("sigma", expected="a noise level in [0, 1]", got=str(self.sigma))
        if self.sigma is not None and self.role is Role.DENOISE:
            raise UsageError(
                "sigma",
                expected="no fixed level for a denoised frame",
                got=str(self.sigma),
                remedy="Use Role.CONDITION for a frame that is given at a fixed level.",
            )
        if self.lock and self.role is not Role.DENOISE:
            raise UsageError("lock", expected="a denoised frame", got=self.role.value)


DENOISE = FrameState(role=Role.DENOISE)
CONDITION = FrameState(role=Role.CONDITION)
NONSENSE = FrameState(role=Role.NONSENSE)
