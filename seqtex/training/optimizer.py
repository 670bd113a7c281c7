"""AdamW over what trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from seqtex_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW.

    Args:
        betas: decay of the two moments.
        weight_decay: of matrices; vectors and modulation tables have none.
        eps: added to the root of the second moment.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.

    Raises:
        UsageError: a value out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        inside = all(0 <= beta < 1 for beta in self.betas)
        if not inside or self.weight_decay < 0 or self.eps <= 0 or self.clip_norm < 0:
            raise UsageError(
                "[optimizer]",
                expected="betas in [0, 1), weight_decay and clip_norm of 0 or more, eps above 0",
                got=f"{self.betas}, {self.weight_decay}, {self.clip_norm}, {self.eps}",
            )


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig
) -> torch.optim.AdamW:
    """AdamW; the learning rate is set by the loop at every step.

    Args:
        parameters: what trains, by name.
        config: its settings.
    """
    matrices = [p for name, p in parameters.items() if _decays(name, p)]
    others = [p for name, p in parameters.items() if not _decays(name, p)]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups one rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients down to a total norm of ``limit`` (0: leave them); returns the norm before.

    Sharded gradients are measured as a whole.
    """
    bound = limit if limit > 0 else float("inf")
    norm = nn.utils.clip_grad_norm_(list(parameters), bound)
    full = getattr(norm, "full_tensor", None)
    return float(norm if full is None else full())


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not name.endswith("scale_shift_table")
