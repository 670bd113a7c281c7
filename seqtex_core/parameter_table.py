"""Where every parameter of a model is stored, so that weights can be put into an empty model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class ParameterTable:
    """All places (module and attribute) of every parameter and buffer below some modules.

    A parameter that two branches share has several places; replacing it keeps it shared.

    Args:
        roots: modules to search.
    """

    def __init__(self, roots: Iterable[nn.Module]) -> None:
        self._places: dict[int, list[tuple[nn.Module, str]]] = {}
        seen: set[int] = set()
        for root in roots:
            for module in root.modules():
                if id(module) in seen:
                    continue
                seen.add(id(module))
                for store in (module._parameters, module._buffers):
                    for name, tensor in store.items():
                        if tensor is not None:
                            self._places.setdefault(id(tensor), []).append((module, name))

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Put ``new`` wherever ``old`` is; gradients stay on or off as they were.

        Args:
            old: a parameter or buffer of the model.
            new: a tensor of the same shape.
        """
        assert old.shape == new.shape
        is_parameter = isinstance(old, nn.Parameter)
        stored = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
        places = self._places.pop(id(old))
        for module, name in places:
            store = module._parameters if is_parameter else module._buffers
            store[name] = stored  # type: ignore[assignment]
        self._places[id(stored)] = places

    def fill(self, named: Mapping[str, Tensor], name: str, value: Tensor) -> None:
        """Give parameter ``name`` the values ``value``: in place, or replaced if it is empty.

        Args:
            named: the model's own tensors by name.
            name: which.
            value: new values, any dtype and device; cast to those of the parameter.
        """
        old = named[name]
        if old.is_meta:
            self.replace(old, value.to(old.dtype))
        else:
            with torch.no_grad():
                old.copy_(value)
