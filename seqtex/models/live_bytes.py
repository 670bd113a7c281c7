"""The greatest number of bytes that tensors hold at once, counted while a call runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(call: Callable[[], object], *, beside: Iterable[Tensor] = ()) -> int:
    """Peak of the bytes that ``call`` allocates and still holds, operator by operator.

    Works on the meta device, where nothing is computed: the way to know what a size will need
    before it is tried. There, attention is counted as its output alone, because what runs
    elsewhere never holds the scores. Scratch memory inside an operator is not seen.

    Args:
        call: what to run, without gradients.
        beside: tensors that exist already and are not counted.
    """
    counter = _LiveBytes(beside)
    with torch.no_grad(), counter, _NoScores():
        call()
    return counter.peak


def kept_bytes(call: Callable[[], object], *, beside: Iterable[Tensor] = ()) -> int:
    """The bytes that ``call`` allocates and its result still holds; see :func:`peak_bytes`.

    Args:
        call: what to run, without gradients.
        beside: tensors that exist already and are not counted.
    """
    counter = _LiveBytes(beside)
    with torch.no_grad(), counter, _NoScores():
        kept = call()
    held = counter.held
    del kept
    return held


class _NoScores(TorchFunctionMode):
    """``scaled_dot_product_attention`` on the meta device, which would hold all scores there."""

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        attends = function is functional.scaled_dot_product_attention
        if attends and len(arguments) >= 3 and arguments[0].is_meta:
            query, _, value = arguments[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return function(*arguments, **(options or {}))


class _LiveBytes(TorchDispatchMode):
    """Adds up storages as operators return them, and takes them off when they are freed."""

    def __init__(self, beside: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._known: dict[int, int] = {}
        self._beside = [tensor.untyped_storage() for tensor in beside]
        for storage in self._beside:
            self._known[storage._cdata] = 0

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        out = operator(*arguments, **(options or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        self.peak = max(self.peak, self.held)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.held += storage.nbytes()
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.held -= self._known.pop(key, 0)
