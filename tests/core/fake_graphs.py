"""CUDA graphs as a CPU can have them: what torch computes is recorded, and computed again.

Like a graph, a replay reads and writes the memory of the capture, and knows nothing of Python:
whatever the host decided or read from a tensor is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class FakeGraph(TorchDispatchMode):
    """Records the operations inside the block."""

    made: list[FakeGraph]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        type(self).made.append(self)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Compute all of it again, where it was computed."""
        self.replays += 1
        for func, args, kwargs, kept in self.steps:
            given = {_storage(x) for x in _tensors((args, kwargs))}
            fresh = [x for x in _tensors(kept) if _storage(x) not in given]
            if not fresh and not func._schema.is_mutable:
                continue  # a view
            again = _tensors(func(*args, **kwargs))
            for x, y in zip(_tensors(kept), again, strict=True):
                if _storage(x) not in given:
                    x.copy_(y)


def pretend_graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Put them in place of torch's; returns the list of those that are made from now on."""
    FakeGraph.made = []

    @contextmanager
    def capture(graph: FakeGraph) -> Iterator[None]:
        with graph:
            yield

    class Stream:
        def wait_stream(self, other: Stream) -> None: ...

    for name, stand_in in {
        "CUDAGraph": FakeGraph,
        "graph": capture,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr("seqtex_core.graphed.reason_graph_unsupported", lambda device: None)
    return FakeGraph.made


def _tensors(values: object) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor)]


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
