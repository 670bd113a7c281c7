"""Gaussian noise from passed generators, independent of the device and, if asked, of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import UsageError

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for a whole batch, or one per sample."""


def draw_noise(
    shape: Sequence[int],
    *,
    generator: Generators,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise of ``shape``, drawn in float32 where the generator lives, then moved.

    A CPU generator gives the same noise whatever ``device`` is. With one generator per sample,
    sample ``b`` depends on generator ``b`` alone, so that results do not depend on how samples are
    put into batches; with a single generator, the batch is one draw and its size matters.

    Args:
        shape: ``[B, ...]``.
        generator: one generator, or a sequence of ``B``.
        device: where the noise goes.
        dtype: of the returned noise.

    Raises:
        UsageError: the number of generators is not the batch size.
    """
    size = tuple(shape)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(size, generator=generator, device=generator.device)
    else:
        _check_count(generator, size[0])
        rows = [torch.randn(size[1:], generator=g, device=g.device) for g in generator]
        noise = torch.stack(rows)
    target = torch.device(device)
    if noise.device.type == "cpu" and target.type == "cuda":
        # from pinned memory the copy does not make the host wait for the running step
        return noise.pin_memory().to(target, non_blocking=True).to(dtype)
    return noise.to(device=target, dtype=dtype)


def draw_indices(
    count: int,
    high: int,
    *,
    generator: Generators,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform integers ``[count]`` in ``[0, high)``, drawn like :func:`draw_noise`.

    Raises:
        UsageError: the number of generators is not ``count``.
    """
    if isinstance(generator, torch.Generator):
        index = torch.randint(high, (count,), generator=generator, device=generator.device)
    else:
        _check_count(generator, count)
        draws = [torch.randint(high, (), generator=g, device=g.device) for g in generator]
        index = torch.stack(draws)
    return index.to(device)


def _check_count(generators: Sequence[torch.Generator], batch: int) -> None:
    if not isinstance(generators, Sequence):
        raise UsageError("generator", expected="a torch.Generator", got=repr(generators))
    if len(generators) != batch:
        raise UsageError(
            "generator",
            expected=f"one generator, or one for each of {batch} samples",
            got=f"{len(generators)} generators",
        )
