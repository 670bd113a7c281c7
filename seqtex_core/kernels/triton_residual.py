"""Launching the Triton kernels of residual sums and LayerNorms: strides, strips, gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..frames import StreamLayout
from .choose import without_autocast
from .triton_launch import float_rows, power_of_two
from .tuning import Arguments, Launch, backward_configs, forward_configs

if TYPE_CHECKING:
    from ..modulation import RowNorm


class _What(NamedTuple):
    """What the kernels do besides their tensors.

    Attributes:
        rows: which frame every row belongs to; ``None`` where nothing is given per frame.
        eps: of the norm.
        centred: the mean of a row is subtracted first.
        out: where the normalised rows go, or ``None``.
        learns: gradients may be asked for.
        tuned: what a program takes may be chosen by measuring.
    """

    rows: StreamLayout | None
    eps: float
    centred: bool
    out: Tensor | None
    learns: bool
    tuned: bool


def residual_norm(
    x: Tensor,
    rows: StreamLayout | None,
    *,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    norm: RowNorm | None = None,
    out: Tensor | None = None,
    tuned: bool,
) -> tuple[Tensor, Tensor | None]:
    """``x + gate * update`` and its norm, times a factor, plus a shift; with gradients.

    Args:
        x: residual stream, ``[B, L, C]``.
        rows: which frame every row belongs to; ``None`` where nothing is given per frame.
        update: ``[B, L, C]``; without it the stream is only normalised.
        gate: ``[B, F, C]`` or ``[1, F, C]``; without it 1.
        norm: without it nothing is normalised.
        out: where to write the normalised rows, ``[B, L, C]`` whose rows are dense; without
            gradients.
        tuned: what a program takes may be chosen by measuring.

    Returns:
        The residual stream (``x`` itself without an update), and the normalised rows, if asked for.
    """
    factor, shift = (None, None) if norm is None else norm[:2]
    gate, factor, shift = (_of_samples(t, len(x)) for t in (gate, factor, shift))
    eps, centred = (0.0, True) if norm is None else (norm.eps, norm.kind == "layer")
    what = _What(rows, eps, centred, out, torch.is_grad_enabled(), tuned)
    made = _ResidualNorm.apply(x, update, gate, factor, shift, what)  # type: ignore[no-untyped-call]
    if update is None:
        return x, cast(Tensor, made)
    if norm is None:
        return cast(Tensor, made), None
    return cast(tuple[Tensor, Tensor], made)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        gate: Tensor | None,
        factor: Tensor | None,
        shift: Tensor | None,
        what: _What,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The kernel; the sum, the normalised rows, or both."""
        batch, length, channels = x.shape
        x = x if x.stride(-1) == 1 else x.contiguous()
        if update is not None and update.stride()[1:] != (channels, 1):
            update = update.contiguous()
        gate, factor, shift = _levels(gate, factor, shift)
        residual, normed = x, _or(what.out, x)
        if update is not None:
            residual = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if factor is not None:
            if what.out is None:
                normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            assert normed.stride()[1:] == (channels, 1)
        keeps = factor is not None and what.learns and any(ctx.needs_input_grad)
        statistics = float_rows(batch * length, 2, device=x.device) if keeps else None
        constants = _constants(update, gate, factor, channels) | {"CENTRED": what.centred}

        def arguments(normed: Tensor) -> Arguments:
            return (
                x,
                _or(update, x),
                _or(gate, x),
                _or(factor, x),
                _or(shift, x),
                x if what.rows is None else what.rows.frame_of_row(x.device),
                residual,
                normed,
                _or(statistics, x),
                length,
                x.stride(0),
                x.stride(1),
                0 if update is None else update.stride(0),
                *_strides(gate),
                *_strides(factor),
                normed.stride(0),
                what.eps,
            )

        launch = Launch(
            kernel=_kernels().residual_norm_forward,
            constants=constants | {"KEEP": keeps},
            configs=forward_configs(constants["BLOCK"]),
            inputs=(x, update, gate, factor),
            rows=batch * length,
            programs=lambda strip: batch * length,
            tuned=what.tuned,
        )

        def scratch(strip: int) -> Arguments:
            """`out` may be where x is, which every launch that is timed reads anew."""
            return arguments(normed if what.out is None else torch.empty_like(normed))

        launch.run(launch.config(scratch), arguments(normed))
        ctx.save_for_backward(residual, update, gate, factor, statistics)
        ctx.what, ctx.constants = what, constants
        if update is None:
            return normed
        return residual if factor is None else (residual, normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Everything but the strips' sums in one kernel."""
        residual, update, gate, factor, statistics = ctx.saved_tensors
        what: _What = ctx.what
        batch, length, channels = residual.shape
        dense = [grad.contiguous() for grad in grads]
        lengths = (length,) if what.rows is None else what.rows.frame_lengths
        grad_x = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
        grad_update = grad_x
        if gate is not None:
            grad_update = torch.empty(update.shape, dtype=update.dtype, device=update.device)
        summed = (ctx.needs_input_grad[2], *[any(ctx.needs_input_grad[3:5])] * 2)

        def strips(most: int) -> Tensor:
            return _strips(lengths, most, residual.device)

        def sums(strip: int) -> list[Tensor]:
            shape = (batch, len(strips(strip)), channels)
            return [float_rows(*shape, device=grad_x.device) if some else grad_x for some in summed]

        def arguments(strip: int, of_strips: list[Tensor]) -> Arguments:
            return (
                dense[0],
                dense[-1],
                residual,
                _or(update, residual),
                _or(gate, residual),
                _or(factor, residual),
                _or(statistics, residual),
                strips(strip),
                grad_x,
                grad_update,
                *of_strips,
                length,
                len(strips(strip)),
                residual.stride(0),
                residual.stride(1),
                0 if update is None else update.stride(0),
                *_strides(gate),
                *_strides(factor),
            )

        launch = Launch(
            kernel=_kernels().residual_norm_backward,
            constants=ctx.constants | {"GATE_SUM": summed[0], "NORM_SUMS": summed[1]},
            configs=backward_configs(ctx.constants["BLOCK"], sum(summed)),
            inputs=(residual, *dense, update, gate, factor),
            rows=batch * length,
            programs=lambda strip: batch * len(strips(strip)),
            tuned=what.tuned,
        )
        config = launch.config(lambda strip: arguments(strip, sums(strip)))
        of_strips = sums(config.strip)
        launch.run(config, arguments(config.strip, of_strips))
        each = [-(-rows // config.strip) for rows in lengths]
        with without_autocast(residual.device):
            of_levels = [
                _summed(part, each, like=level) if wanted else None
                for part, level, wanted in zip(
                    of_strips, (gate, factor, factor), ctx.needs_input_grad[2:5], strict=True
                )
            ]
        of_update = None if update is None else grad_update.to(update.dtype)
        return grad_x, of_update, *of_levels, None


@lru_cache(maxsize=64)
def _strips(lengths: tuple[int, ...], most: int, device: torch.device) -> Tensor:
    """Every strip's first row, the row after its last, and their frame, int64, ``[S, 3]``."""
    strips, start = [], 0
    for frame, length in enumerate(lengths):
        end = start + length
        strips += [(at, min(at + most, end), frame) for at in range(start, end, most)]
        start = end
    return torch.tensor(strips, dtype=torch.int64).view(-1, 3).to(device)


def _levels(
    gate: Tensor | None, factor: Tensor | None, shift: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As they are, if the kernels can read them so: channels side by side, factor as shift."""
    if gate is not None and gate.stride(-1) != 1:
        gate = gate.contiguous()
    if factor is not None and shift is not None:
        apart = factor.stride(-1) != 1 or factor.stride() != shift.stride()
        factor, shift = (factor.contiguous(), shift.contiguous()) if apart else (factor, shift)
    return gate, factor, shift


def _of_samples(levels: Tensor | None, samples: int) -> Tensor | None:
    """Those of one sample for all of them, without a copy; autograd sums their gradients."""
    if levels is None or levels.ndim < 3 or len(levels) == samples:
        return levels
    return levels.expand(samples, -1, -1)


def _strides(levels: Tensor | None) -> tuple[int, int]:
    """From sample to sample and from frame to frame; nothing where there are no frames."""
    return (0, 0) if levels is None or levels.ndim < 3 else (levels.stride(0), levels.stride(1))


def _summed(parts: Tensor, strips: list[int], *, like: Tensor) -> Tensor:
    """Sums of strips ``[B, S, C]``: of those of each frame ``[B, F, C]``, or of all ``[C]``.

    Always in the same order, unlike CUDA's ``index_add_``.
    """
    if like.ndim < 3:
        sums = parts.sum((0, 1))
    elif len(set(strips)) == 1:
        sums = parts.unflatten(1, (len(strips), strips[0])).sum(2)
    else:
        sums = torch.stack([part.sum(1) for part in parts.split(strips, dim=1)], dim=1)
    return sums.to(like.dtype)


def _constants(
    update: Tensor | None, gate: Tensor | None, factor: Tensor | None, channels: int
) -> dict[str, Any]:
    """Compile-time constants of both kernels."""
    block = power_of_two(channels)
    return {
        "C": channels,
        "BLOCK": block,
        "UPDATE": update is not None,
        "GATE": gate is not None,
        "NORM": factor is not None,
        "PER_FRAME": factor is not None and factor.ndim == 3,
    }


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Something to point at where a kernel reads nothing."""
    return other if tensor is None else tensor


def _kernels() -> Any:
    """Triton is imported by the first launch."""
    from . import triton_residual_kernels

    return triton_residual_kernels
