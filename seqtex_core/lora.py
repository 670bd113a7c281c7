"""Low-rank adapters on linear layers, with the key names of peft.

``LoRALinear`` is a ``nn.Linear`` with two extra parameters, so the names of the base weights do not
change and a frozen base loads without a key map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import UsageError
from .weight_report import check_weights


class LoRALinear(nn.Linear):
    """``W x + b + (alpha / rank) B A x``; starts equal to the base because ``B`` is zero.

    Args:
        base: the layer to adapt; its parameters are taken over, not copied.
        rank: inner width.
        alpha: numerator of the scale.
        generator: CPU generator of the initial ``A``; torch's global one by default.

    Raises:
        UsageError: a rank below 1.

    Source:
        Hu et al., LoRA (arXiv 2106.09685), section 4.1; initialisation as in peft.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float,
        generator: torch.Generator | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if rank < 1:
            raise UsageError("LoRA rank", expected="at least 1", got=str(rank))
        self.in_features = base.in_features
        self.out_features = base.out_features
        self.weight = base.weight
        self.bias = base.bias
        self.scale = alpha / rank
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, device="meta")
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, device="meta")
        self.lora_A.weight = nn.Parameter(self._initial_a(rank, generator))
        self.lora_B.weight = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.is_merged = False
        self._unmerged: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The adapted layer's output, ``[..., out_features]``."""
        output = functional.linear(input, self.weight, self.bias)
        if self.is_merged:
            return output
        update = self.lora_B(self.lora_A(input.to(self.lora_A.weight.dtype)))
        adapted: Tensor = output + (self.scale * update).to(output.dtype)
        return adapted

    def _initial_a(self, rank: int, generator: torch.Generator | None) -> Tensor:
        """Uniform in ``+- 1 / sqrt(in_features)``; drawn on CPU, so equal on every device."""
        if self.weight.is_meta:
            return self.weight.new_empty(rank, self.in_features)
        bound = 1.0 / math.sqrt(self.in_features)
        drawn = torch.empty(rank, self.in_features, device="cpu")
        return drawn.uniform_(-bound, bound, generator=generator).to(self.weight)

    def merged_weight(self) -> Tensor:
        """``W + scale * B A``, summed in fp32 (fp64 for fp64 weights) and rounded once."""
        if self.is_merged:
            return self.weight.detach()
        wide = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        delta = self.lora_B.weight.detach().to(wide) @ self.lora_A.weight.detach().to(wide)
        return (self.weight.detach().to(wide) + self.scale * delta).to(self.weight.dtype)

    def merge(self, *, keep_base: bool = True) -> None:
        """Fold the adapter into the weight.

        Args:
            keep_base: remember the base weight (on its device), so that ``unmerge`` is exact.
        """
        if self.is_merged:
            return
        merged = self.merged_weight()
        self._unmerged = self.weight.data if keep_base else None
        self.weight.data = merged
        self.is_merged = True

    def unmerge(self) -> None:
        """Restore the base weight bit for bit.

        Raises:
            UsageError: merged with ``keep_base=False``.
        """
        if not self.is_merged:
            return
        if self._unmerged is None:
            raise UsageError(
                "unmerge",
                expected="a layer merged with keep_base=True",
                got="keep_base=False",
                remedy="Load the weights again.",
            )
        self.weight.data = self._unmerged.to(self.weight)
        self._unmerged = None
        self.is_merged = False


def inject_lora(
    module: nn.Module,
    targets: Iterable[str],
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Replace the linear layers named in ``targets`` by ``LoRALinear``; returns their names.

    The base weights are not frozen by this; the caller decides.

    Args:
        module: the root; changed in place.
        targets: full dotted names of linear layers below ``module``; endings do not count.
        rank: LoRA rank.
        alpha: LoRA alpha.
        generator: CPU generator of the initial weights; torch's global one by default.

    Raises:
        UsageError: a target does not exist or is not a linear layer, or one name for a list.
    """
    if isinstance(targets, str):
        raise UsageError("LoRA targets", expected="a list of names", got=repr(targets))
    done = []
    for name in targets:
        parent_name, _, leaf = name.rpartition(".")
        if not leaf:
            raise UsageError("LoRA target", expected="a layer's name", got=repr(name))
        try:
            parent = module.get_submodule(parent_name)
            layer = parent.get_submodule(leaf)
        except AttributeError as error:
            raise UsageError("LoRA target", expected="a layer of the model", got=name) from error
        if not isinstance(layer, nn.Linear) or isinstance(layer, LoRALinear):
            got = f"{name}, a {type(layer).__name__}"
            raise UsageError("LoRA target", expected="a plain nn.Linear", got=got)
        setattr(parent, leaf, LoRALinear(layer, rank=rank, alpha=alpha, generator=generator))
        done.append(name)
    return done


def lora_layers(module: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """``(name, layer)`` of every adapted layer below ``module``."""
    for name, layer in module.named_modules():
        if isinstance(layer, LoRALinear):
            yield name, layer


def merge_lora(module: nn.Module, *, keep_base: bool = True) -> None:
    """Fold every adapter below ``module`` into its weight."""
    for _, layer in lora_layers(module):
        layer.merge(keep_base=keep_base)


def unmerge_lora(module: nn.Module) -> None:
    """Take every adapter below ``module`` out of its weight again, bit for bit."""
    for _, layer in lora_layers(module):
        layer.unmerge()


def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """State dict of the same model without adapters: folded in, their own keys dropped."""
    state: dict[str, Tensor] = module.state_dict()
    for name, layer in lora_layers(module):
        state[f"{name}.weight"] = layer.merged_weight()
        del state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
    return state


def lora_state_dict(module: nn.Module, *, prefix: str = "") -> dict[str, Tensor]:
    """Adapter weights under peft's exported names: ``{name}.lora_A.weight``, ``.lora_B.weight``.

    Args:
        module: the root.
        prefix: put before every name, e.g. ``"transformer."`` for diffusers pipelines.
    """
    state = {}
    for name, layer in lora_layers(module):
        state[f"{prefix}{name}.lora_A.weight"] = layer.lora_A.weight.detach()
        state[f"{prefix}{name}.lora_B.weight"] = layer.lora_B.weight.detach()
    return state


def load_lora_state_dict(
    module: nn.Module, state: Mapping[str, Tensor], *, prefix: str = ""
) -> None:
    """Load adapter weights written by ``lora_state_dict`` or exported by peft, in place.

    peft's alpha is not part of its weights: the scale is the one given at injection.

    Raises:
        WeightsError: names or shapes that do not belong to the adapted layers.
        UsageError: an adapter is merged.
    """
    if any(layer.is_merged for _, layer in lora_layers(module)):
        raise UsageError("LoRA weights", expected="unmerged adapters", got="merged ones")
    copy_weights("LoRA weights", lora_state_dict(module, prefix=prefix), state)


def copy_weights(subject: str, targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into the tensors of the same names, after names and shapes were compared.

    Raises:
        WeightsError: see ``check_weights``.
    """
    check_weights(
        subject,
        {name: tuple(tensor.shape) for name, tensor in targets.items()},
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        remedy="Check the base model, the rank and the key prefix.",
    )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])
