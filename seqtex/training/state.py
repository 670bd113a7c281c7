"""The state of a run as named tensors: weights, averages, moments, random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from seqtex_core.errors import InputError
from seqtex_core.weight_report import check_weights

from .ema import PowerAverage
from .sharding import gather, scatter_into

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """Everything that changes during training, apart from the step.

    Args:
        parameters: what trains, by name.
        optimizer: AdamW over them.
        average: running averages of them.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    average: PowerAverage

    def __post_init__(self) -> None:
        """Give AdamW the moments it would make itself at a parameter's first gradient."""
        for parameter in self.parameters.values():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter.detach()),
                "exp_avg_sq": torch.zeros_like(parameter.detach()),
            }

    def collect(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU, by name; every process must call it."""
        state = {name: gather(tensor) for name, tensor in self._tensors()}
        state["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["random.cuda"] = torch.cuda.get_rng_state()
        return state

    def restore(self, path: Path) -> None:
        """Put back what ``collect`` gave, from a safetensors file; every process must call it.

        Raises:
            InputError: damaged.
            WeightsError: the state of another model.
        """
        try:
            with safe_open(str(path), framework="pt") as reader:
                names = [n for n in reader.keys() if not n.startswith("random.")]  # noqa: SIM118
                targets = dict(self._tensors())
                check_weights(
                    f"training state {path}",
                    {name: tuple(tensor.shape) for name, tensor in targets.items()},
                    {name: tuple(reader.get_slice(name).get_shape()) for name in names},
                    remedy="Resume with the configuration that the run was started with.",
                )
                for name, target in targets.items():
                    scatter_into(target, reader.get_tensor(name))
                torch.set_rng_state(reader.get_tensor("random.cpu"))
                if torch.cuda.is_available() and "random.cuda" in reader.keys():  # noqa: SIM118
                    torch.cuda.set_rng_state(reader.get_tensor("random.cuda"))
        except (OSError, SafetensorError) as error:
            raise InputError(
                str(path),
                expected="a training state",
                got=str(error),
                remedy=f"Remove {path.parent} to resume from the one before it.",
            ) from error

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.parameters.items():
            yield f"model.{name}", parameter.detach()
            for moment in _MOMENTS:
                yield f"optimizer.{moment}.{name}", self.optimizer.state[parameter][moment]
        for sigma_rel, average in zip(self.average.sigma_rels, self.average.averages, strict=True):
            for name, tensor in average.items():
                yield f"ema.{sigma_rel!r}.{name}", tensor
