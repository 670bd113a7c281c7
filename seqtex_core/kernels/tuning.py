"""How many warps and rows a program of a Triton kernel takes: measured on a GPU, or the default.

The first launch on rows of a new kind times a few configs. What is found is kept beside Triton's
compiled kernels, so that a machine measures once and the same call gives the same bits from then
on; a CUDA graph that was captured before keeps the default. Another machine, a process that
measures at the same time, or another number of rows may find another config, which sums in another
order: results differ by roundings, and nothing else depends on it. Where bits must be equal
everywhere, ``triton_fixed`` and ``torch.use_deterministic_algorithms`` take the defaults.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

STRIP = 16
"""Rows of a program backward: partial sums of weight gradients are this much smaller than x."""
STRIPS = (8, STRIP, 32)
WORTH = 0.97
"""What a config takes at most of the default's time to be chosen instead: less may be noise."""
_WARM_UP_MS, _REPEATED_MS = 5, 20
_FILE = "config.json"

Arguments = tuple[Any, ...]


class Config(NamedTuple):
    """What a program takes.

    Attributes:
        num_warps: of 32 threads.
        strip: rows; 0 is one row, forward.
    """

    num_warps: int
    strip: int = 0

    @property
    def constants(self) -> dict[str, int]:
        """Those of the kernel itself."""
        return {"STRIP": self.strip} if self.strip else {}

    def __str__(self) -> str:
        """For people."""
        rows = f", strips of {self.strip}" if self.strip else ""
        return f"{self.num_warps} warps{rows}"


class Launched(NamedTuple):
    """A launch that was seen.

    Attributes:
        kernel: its name.
        config: what its programs took.
    """

    kernel: str
    config: Config

    def __str__(self) -> str:
        """For people."""
        return f"{self.kernel}: {self.config}"


@cache
def forward_configs(elements: int) -> tuple[Config, ...]:
    """For a row padded to ``elements``; the default first, then half and twice its warps.

    The default is eight elements per thread, so that access is 128 bits wide, in at most 16 warps.
    """
    usual = min(max(elements // (32 * 8), 1), 16)
    return (Config(usual), *map(Config, _others(usual, elements, most=32)))


@cache
def backward_configs(elements: int, sums: int) -> tuple[Config, ...]:
    """Likewise; and one other strip on either side.

    Where more than one sum per channel is kept, a thread has 16 channels of 4096: what it needs
    besides is needed by half as many threads, and a multiprocessor has room for more rows. More
    than 16 warps would leave a thread 64 registers, too few for the sums.

    Args:
        elements: of a padded row.
        sums: that a thread keeps of each of its channels.
    """
    usual = 8 if sums > 1 and elements == 4096 else forward_configs(elements)[0].num_warps
    other_warps = [Config(n, STRIP) for n in _others(usual, elements, most=16)]
    other_strips = [Config(usual, strip) for strip in STRIPS if strip != STRIP]
    return (Config(usual, STRIP), *other_warps, *other_strips)


def _others(usual: int, elements: int, *, most: int) -> list[int]:
    """Half and twice the warps, at most ``most``, where a thread has 8 to 16 elements."""
    both = (usual // 2, usual * 2)
    return [n for n in both if 1 <= n <= most and 8 <= elements // (32 * n) <= 16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Launch:
    """A kernel with all that its best config depends on.

    Args:
        kernel: the Triton function.
        constants: compile-time constants, but those of a config.
        configs: to choose from; the default first.
        inputs: what it reads, the first on its device; dtypes are told apart.
        rows: of the first; numbers between two powers of two are measured once.
        programs: how many there are, given a config's strip.
        tuned: the config may be chosen by measuring.
    """

    kernel: Any
    constants: Mapping[str, Any]
    configs: tuple[Config, ...]
    inputs: tuple[Tensor | None, ...]
    rows: int
    programs: Callable[[int], int]
    tuned: bool

    def config(self, scratch: Callable[[int], Arguments]) -> Config:
        """The best one, if it is known or can be measured now; else the default.

        Args:
            scratch: arguments for a strip that may be launched on again and again: nothing that is
                written is read, by the kernel or afterwards.
        """
        if not self.tuned or torch.are_deterministic_algorithms_enabled():
            return self.configs[0]
        known = (self._device, self._kind)
        if known not in _found:
            with _on(self._device), _lock:
                if known not in _found and not can_measure(self.kernel, self._device):
                    return self.configs[0]
                if known not in _found:
                    _found[known] = self._stored_or_measured(scratch)
        return _found[known]

    def run(self, config: Config, arguments: Arguments) -> None:
        """Launch it."""
        with _on(self._device):
            self._launch(config, arguments)
        for watcher in _watchers:
            watcher.append(Launched(self._name, config))

    @property
    def _name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def _device(self) -> torch.device:
        assert self.inputs[0] is not None
        return self.inputs[0].device

    @property
    def _kind(self) -> tuple[object, ...]:
        dtypes = tuple(None if one is None else one.dtype for one in self.inputs)
        return (self._name, *self.constants.items(), dtypes, self.rows.bit_length())

    def _launch(self, config: Config, arguments: Arguments) -> None:
        constants = {**self.constants, **config.constants, "num_warps": config.num_warps}
        self.kernel[(self.programs(config.strip),)](*arguments, **constants)

    def _stored_or_measured(self, scratch: Callable[[int], Arguments]) -> Config:
        stored = self._stored()
        if stored is not None:
            return stored
        try:
            best = self._measured(scratch)
        except torch.OutOfMemoryError:
            logger.warning("kernels: too little memory to tune %s", self._name)
            return self.configs[0]
        logger.info("kernels: %s takes %s for %d rows", self._name, best, self.rows)
        try:
            self._store().put(json.dumps(best), _FILE, binary=False)
        except OSError as error:  # as a folder that may only be read, or a full disk
            logger.warning("kernels: %s is measured again next time: %s", self._name, error)
        return best

    def _stored(self) -> Config | None:
        """What was measured before, if it can be read and is among the choices."""
        try:
            path = self._store().get_file(_FILE)
            config = None if path is None else Config(*json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("kernels: what %s takes cannot be read: %s", self._name, error)
            return None
        return config if config in self.configs else None

    def _store(self) -> Any:
        from triton.runtime.cache import get_cache_manager

        about = repr((self._kind, self.configs, *_made_for(self.kernel, self._device)))
        return get_cache_manager(hashlib.sha256(about.encode()).hexdigest())

    def _measured(self, scratch: Callable[[int], Arguments]) -> Config:
        times: dict[Config, float] = {}
        for config in self.configs:
            arguments = scratch(config.strip)
            try:
                times[config] = _timed(partial(self._launch, config, arguments))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # Triton's and the driver's, of too much for this GPU
                logger.info("kernels: %s cannot take %s: %s", self._name, config, error)
                if not times and config == self.configs[-1]:
                    raise
        best = min(times, key=times.__getitem__)
        default = times.get(self.configs[0], math.inf)
        return best if times[best] < WORTH * default else self.configs[0]


def can_measure(kernel: Any, device: torch.device) -> bool:
    """On a GPU and neither interpreted, traced, nor captured into a CUDA graph.

    Args:
        kernel: the Triton function.
        device: the current one.
    """
    return (
        device.type == "cuda"
        and _is_compiled(kernel)
        and not torch.compiler.is_compiling()
        and not torch.cuda.is_current_stream_capturing()
    )


@contextmanager
def watched_launches() -> Iterator[list[Launched]]:
    """A list of all launches inside, of all threads; backward runs in threads of its own."""
    seen: list[Launched] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers[:] = [watcher for watcher in _watchers if watcher is not seen]


_found: dict[tuple[object, ...], Config] = {}
_lock = threading.Lock()
_watchers: list[list[Launched]] = []


def _is_compiled(kernel: Any) -> bool:
    from triton import JITFunction

    return isinstance(kernel, JITFunction)


def _made_for(kernel: Any, device: torch.device) -> tuple[str, ...]:
    """Source, compiler and GPU, without which what was measured is worth nothing."""
    import triton

    return (kernel.cache_key, triton.__version__, torch.cuda.get_device_name(device))


def _timed(call: Callable[[], object]) -> float:
    """Milliseconds of a launch; a fifth of the time that Triton measures by itself."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=_WARM_UP_MS, rep=_REPEATED_MS, return_mode="median"))


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, wherever the tensors are."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
