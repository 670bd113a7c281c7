"""A device that nothing has: its tensors refuse those of the CPU as a GPU's do.

Their numbers are on the CPU, so that everything runs on any machine and gives what the CPU gives.
Torch knows the type ``lazy`` in every build, and asks no driver about it, not for gradients either.
What is particular to CUDA (pinned memory, graphs, its own kernels) is not pretended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from seqtex_core.geometry_embedding import GeometryLatents

DEVICE = torch.device("lazy", 0)
_CPU = torch.device("cpu")
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXING = {
    _aten.index.Tensor,
    _aten._unsafe_index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class MixedDevicesError(RuntimeError):
    """An operation that a GPU would refuse."""


class Elsewhere(Tensor):
    """A tensor on the device; ``held`` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _computed(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """By this torch knows that ``Module.to`` must exchange whole tensors."""
        return ["held"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], *_: object) -> Elsewhere:
        return cls(inner["held"])

    @property
    def data(self) -> Elsewhere:
        return self.detach()

    @data.setter
    def data(self, value: Elsewhere) -> None:
        Tensor.data.__set__(self, value)
        self.held = value.held

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"Elsewhere({self.held!r})"


class _Strict(TorchDispatchMode):
    """Sees what is made on the device, too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _computed(func, args, kwargs or {})


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """The device, which is there inside the block only."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor moves what it made where modes see it
    try:
        with _Strict():
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def there(values: Any) -> Any:
    """Tensors, those of a dict, or geometry latents, on the device."""
    if isinstance(values, dict):
        return {name: there(value) for name, value in values.items()}
    if isinstance(values, GeometryLatents):
        return values.each(there)
    return values.to(DEVICE) if isinstance(values, Tensor) else values


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """What ``func`` gives, on the device if it is asked for there or has operands there."""
    leaves, structure = tree_flatten((args, kwargs))
    ours = [x for x in leaves if isinstance(x, Elsewhere)]
    device = kwargs.get("device")
    goes_there = bool(ours) if device is None else torch.device(device).type == DEVICE.type
    if not ours and not goes_there:
        return func(*args, **kwargs)
    if ours and func not in _COPIES:
        _check_tensors(func, args, kwargs)
    if goes_there and any(isinstance(x, torch.Generator) for x in leaves):
        raise MixedDevicesError(f"{func}: drawn on {DEVICE} by a generator of the CPU")
    bare = [x.held if isinstance(x, Elsewhere) else x for x in leaves]
    bare_args, bare_kwargs = tree_unflatten(bare, structure)
    if device is not None and goes_there:
        bare_kwargs["device"] = _CPU
    out = func(*bare_args, **bare_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    return tree_map(lambda x: _placed(x, ours), out) if goes_there else out


def _placed(x: object, ours: list[Elsewhere]) -> object:
    """A result on the device: the operand itself, if it was changed in place."""
    if not isinstance(x, Tensor):
        return x
    same = next((operand for operand in ours if operand.held is x), None)
    assert same is None or same.shape == x.shape, "a shape that was changed in place"
    # torch notes on a tensor that it is a conjugate; it would not find the note on ours
    return Elsewhere(x.resolve_conj().resolve_neg()) if same is None else same


def _check_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """CUDA takes indices of the CPU, and its numbers in what goes element by element."""
    first, others = args[0], (args, kwargs)
    if func in _INDEXING and isinstance(first, Elsewhere):
        others = (args[2:], kwargs)
    tensors = [x for x in tree_leaves(others) if isinstance(x, Tensor)]
    here = [x for x in tensors if not isinstance(x, Elsewhere)]
    takes_numbers = torch.Tag.pointwise in func.tags or func in _INDEXING
    writes_here = func._schema.is_mutable and any(x is first for x in here)
    if wrong := [x for x in here if x.ndim or writes_here or not takes_numbers]:
        shapes = ", ".join(str(list(x.shape)) for x in wrong)
        raise MixedDevicesError(f"{func}: tensors on {DEVICE} together with {shapes} on the CPU")
