"""Moving a model's parts to the device while they work, and back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seqtex_core.transformer import SeqTexTransformer

Copy = Callable[[Tensor, torch.device], Tensor]
"""A tensor's values on another device."""


class Residence:
    """Where the parts of a model are, and when.

    Args:
        device: where parts work.
        visitors: tensors by part that are on the device only inside :meth:`using`; parts that are
            not named stay where they are.
        copy: replaces the copying, for tests.
    """

    def __init__(
        self,
        device: torch.device | str,
        visitors: Mapping[str, Iterable[Tensor]] | None = None,
        *,
        copy: Copy | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.visitors = {name: tuple(tensors) for name, tensors in (visitors or {}).items()}
        self._copy = copy or to_device

    @contextmanager
    def using(self, part: str) -> Iterator[None]:
        """Have ``part`` on the device inside the block."""
        try:
            with visiting(self.visitors.get(part, ()), self.device, copy=self._copy):
                yield
        finally:
            release(self.device)


@contextmanager
def visiting(
    tensors: Iterable[Tensor], device: torch.device, *, copy: Copy | None = None
) -> Iterator[None]:
    """Have tensors on ``device`` inside the block.

    Their own memory keeps the values, so that nothing is copied back: what the block writes into
    them is lost.

    Args:
        tensors: parameters and buffers.
        device: where they go.
        copy: replaces the copying, for tests.
    """
    home = [(tensor, tensor.data) for tensor in tensors]
    try:
        _move(home, device, copy or to_device)
        yield
    finally:
        for tensor, data in home:
            tensor.data = data


def stream_blocks(
    transformer: SeqTexTransformer, device: torch.device | str, *, copy: Copy | None = None
) -> None:
    """Let every block of a transformer visit the device in its own forward only.

    Geometry and context keys must not be cached (``precompute=False``): caches are made outside of
    the blocks' forward.

    Args:
        transformer: its blocks are where they should stay.
        device: where they work.
        copy: replaces the copying, for tests.
    """
    target = torch.device(device)
    for block in transformer.muv_blocks():
        visit = _Visit(tensors_of(block), target, copy)
        block.register_forward_pre_hook(visit.begin)
        block.register_forward_hook(visit.end, always_call=True)


def tensors_of(*modules: nn.Module) -> list[Tensor]:
    """Parameters and buffers of modules, shared ones once."""
    found = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return list(found.values())


def outside_blocks(transformer: SeqTexTransformer) -> list[Tensor]:
    """What a transformer has besides its blocks."""
    inside = {id(t) for block in transformer.muv_blocks() for t in tensors_of(block)}
    return [t for t in tensors_of(transformer) if id(t) not in inside]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on ``device``."""
    return values.to(device, non_blocking=True)


def release(device: torch.device) -> None:
    """Give freed memory back, so that what one stage leaves behind does not add to the next."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others do it themselves
        if trim is not None:
            trim(0)


class _Visit:
    """One block's visits, as a pair of hooks."""

    def __init__(self, tensors: list[Tensor], device: torch.device, copy: Copy | None) -> None:
        self._tensors = tensors
        self._device = device
        self._copy = copy
        self._home: list[tuple[Tensor, Tensor]] = []

    def begin(self, *_: object) -> None:
        self._home = [(tensor, tensor.data) for tensor in self._tensors]
        _move(self._home, self._device, self._copy or to_device)

    def end(self, *_: object) -> None:
        for tensor, data in self._home:
            tensor.data = data
        self._home = []


def _move(home: Sequence[tuple[Tensor, Tensor]], device: torch.device, move: Copy) -> None:
    """Let tensors have copies of their values on ``device``.

    Values that fill one stretch of memory together, as projections joined for inference do, are
    copied as one and lie so there, too.
    """
    together: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for tensor, data in home:
        together.setdefault(data.untyped_storage()._cdata, []).append((tensor, data))
    for parts in together.values():
        first = parts[0][1]
        size = sum(data.numel() for _, data in parts)
        if len(parts) == 1 or size * first.itemsize != first.untyped_storage().nbytes():
            for tensor, data in parts:
                tensor.data = move(data, device)
            continue
        whole = move(first.as_strided((size,), (1,), 0), device)
        for tensor, data in parts:
            tensor.data = whole.as_strided(data.shape, data.stride(), data.storage_offset())
