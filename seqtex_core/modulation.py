"""Adaptive norm per frame, broadcast over a frame's tokens and not expanded to all of them.

The modulation of a frame is one row; building it for every token would move more bytes than the
rest of the block (8192 tokens x 6 tables x 1536 channels in fp32 are 302 MB). Only where frames
differ in length, on a GPU, is it expanded, one sublayer at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .checks import check_shape, check_type
from .frames import StreamLayout
from .kernels.choose import kernels_for

NormKind = Literal["layer", "rms"]


class RowNorm(NamedTuple):
    """A norm in front of a sublayer, and what it is multiplied with and shifted by.

    Attributes:
        factor: of each frame, ``[B, F, D]`` (1 plus the scale, fp32), or of all rows, ``[D]``.
        shift: likewise.
        eps: of the norm.
        kind: ``"layer"`` subtracts the mean of a row first, ``"rms"`` does not; the latter only
            with values per frame.
    """

    factor: Tensor
    shift: Tensor
    eps: float
    kind: NormKind = "layer"


def per_frame(
    function: Callable[..., Tensor], rows: StreamLayout, hidden_states: Tensor, *values: Tensor
) -> Tensor:
    """``function(tokens of a frame, the frame's values)`` for every frame of a stream.

    Args:
        function: elementwise over tokens; gets ``[..., n, D]`` and values ``[..., 1, D]``.
        rows: which rows belong to which frame.
        hidden_states: ``[B, L, D]``.
        values: per-frame rows, each ``[B, F, D]``.

    Returns:
        ``[B, L, D]``, in the dtype that ``function`` returns.

    Raises:
        UsageError: rows of another number than the stream has, or values of other frames.
    """
    _check_rows(hidden_states, rows)
    for value in values:
        check_shape("values per frame", value, (None, rows.num_frames, None), "B F D")
    length = rows.uniform_length()
    if length is not None:
        tokens = hidden_states.unflatten(1, (rows.num_frames, length))
        return function(tokens, *(value.unsqueeze(2) for value in values)).flatten(1, 2)
    # A GPU would wait for one launch per frame; a compiler makes one kernel of either form.
    ragged = by_row if hidden_states.is_cuda and not torch.compiler.is_compiling() else by_frame
    return ragged(function, rows, hidden_states, *values)


def by_frame(
    function: Callable[..., Tensor], rows: StreamLayout, hidden_states: Tensor, *values: Tensor
) -> Tensor:
    """``per_frame`` for frames of any length, one after the other."""
    pieces = [
        function(piece, *(value[:, frame : frame + 1] for value in values))
        for frame, piece in enumerate(torch.split(hidden_states, list(rows.frame_lengths), dim=1))
    ]
    return torch.cat(pieces, dim=1)


def by_row(
    function: Callable[..., Tensor], rows: StreamLayout, hidden_states: Tensor, *values: Tensor
) -> Tensor:
    """``per_frame`` for frames of any length at once, the values gathered for every row."""
    frame = rows.frame_of_row(hidden_states.device)
    return function(hidden_states, *(value.index_select(1, frame) for value in values))


def modulate(normed: Tensor, shift: Tensor, scale: Tensor, rows: StreamLayout) -> Tensor:
    """``normed * (1 + scale) + shift``, frame by frame, in the dtype of the operands.

    Args:
        normed: normalised tokens, ``[B, L, D]``.
        shift: per frame, ``[B, F, D]``.
        scale: per frame, ``[B, F, D]``.
        rows: the stream's layout.

    Raises:
        UsageError: rows of another number than the stream has, or tables of other frames.
    """
    return per_frame(lambda x, s, c: x * (1 + c) + s, rows, normed, shift, scale)


def modulated_norm(
    hidden_states: Tensor,
    shift: Tensor,
    factor: Tensor,
    rows: StreamLayout,
    *,
    eps: float,
    kind: NormKind = "layer",
    out: Tensor | None = None,
) -> Tensor:
    """``norm(hidden_states) * factor + shift``, ``[B, L, D]`` in their dtype.

    Args:
        hidden_states: the residual stream, ``[B, L, D]``; the norm has no weights of its own.
        shift: per frame, ``[B, F, D]``, fp32.
        factor: 1 plus the scale, per frame, ``[B, F, D]``, fp32.
        rows: the stream's layout.
        eps: of the norm.
        kind: see ``RowNorm``.
        out: where to write it, such as rows of a longer tensor; without gradients.

    Raises:
        UsageError: rows of another number than the stream has, or values of other frames.
    """
    _check_rows(hidden_states, rows, shift=shift, factor=factor)
    kernels = kernels_for("norm", hidden_states, hidden_states.shape[-1], shift, factor)
    return kernels.modulated_norm(hidden_states, shift, factor, rows, eps=eps, kind=kind, out=out)


def affine_norm(hidden_states: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """LayerNorm with weights, computed in fp32, in the dtype of ``hidden_states``.

    Args:
        hidden_states: ``[..., D]``.
        weight: ``[D]``.
        bias: ``[D]``.
        eps: of the norm.

    Raises:
        UsageError: weights of another size.
    """
    check_shape("weight", weight, hidden_states.shape[-1:], "D")
    check_shape("bias", bias, hidden_states.shape[-1:], "D")
    kernels = kernels_for("norm", hidden_states, hidden_states.shape[-1], weight, bias)
    return kernels.affine_norm(hidden_states, weight, bias, eps=eps)


def normed_rows(
    hidden_states: Tensor, norm: RowNorm, rows: StreamLayout, *, out: Tensor | None = None
) -> Tensor:
    """The input of a sublayer, ``[B, L, D]``: ``modulated_norm``, or ``affine_norm`` for weights.

    Args:
        hidden_states: the residual stream, ``[B, L, D]``.
        norm: of the sublayer.
        rows: the stream's layout.
        out: see ``modulated_norm``; only with values per frame.
    """
    factor, shift, eps, kind = norm
    if factor.ndim == 3:
        return modulated_norm(hidden_states, shift, factor, rows, eps=eps, kind=kind, out=out)
    assert out is None
    assert kind == "layer"
    return affine_norm(hidden_states, factor, shift, eps=eps)


def gated_residual(
    hidden_states: Tensor, update: Tensor, gate: Tensor, rows: StreamLayout
) -> Tensor:
    """``hidden_states + gate * update``, summed in fp32 and returned in the dtype of the stream.

    Args:
        hidden_states: the residual stream, ``[B, L, D]``.
        update: what a sublayer adds, ``[B, L, D]``.
        gate: per frame, ``[B, F, D]``, fp32.
        rows: the stream's layout.

    Raises:
        UsageError: rows of another number than the stream has, or a gate of other frames.
    """
    _check_rows(hidden_states, rows, gate=gate)
    check_shape("update", update, hidden_states.shape, "B L D")
    kernels = kernels_for("gate", hidden_states, hidden_states.shape[-1], update, gate)
    return kernels.gated_residual(hidden_states, update, gate, rows)


def residual_norm(
    hidden_states: Tensor,
    update: Tensor,
    rows: StreamLayout,
    *,
    gate: Tensor | None,
    norm: RowNorm,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What one sublayer adds, and the norm in front of the next: the sum, and the sum normalised.

    Equals ``gated_residual`` followed by ``normed_rows``; the sum is rounded to the dtype of the
    stream before it is normalised.

    Args:
        hidden_states: the residual stream, ``[B, L, D]``.
        update: what the sublayer adds, ``[B, L, D]``.
        rows: the stream's layout.
        gate: per frame, ``[B, F, D]``, fp32; ``None`` for 1.
        norm: of the next sublayer.
        out: where to write the normalised rows, see ``modulated_norm``.

    Returns:
        Both ``[B, L, D]``, in the dtype of the stream.

    Raises:
        UsageError: rows of another number than the stream has, or values of other frames.
    """
    _check_rows(hidden_states, rows, gate=gate)
    check_shape("update", update, hidden_states.shape, "B L D")
    width = hidden_states.shape[-1]
    if norm.factor.ndim == 3:
        _check_rows(hidden_states, rows, factor=norm.factor, shift=norm.shift)
    else:
        check_shape("norm.factor", norm.factor, (width,), "D")
        check_shape("norm.shift", norm.shift, (width,), "D")
    kernels = kernels_for("norm", hidden_states, width, update, gate, norm.factor, norm.shift)
    return kernels.residual_norm(hidden_states, update, rows, gate=gate, norm=norm, out=out)


def _check_rows(hidden_states: Tensor, rows: StreamLayout, **values: Tensor | None) -> None:
    """Values may be those of every sample or, with one sample, the same for all."""
    check_type("rows", rows, StreamLayout, remedy="Use layout.all_rows or layout.streams[...].")
    check_shape("hidden_states", hidden_states, (None, rows.num_tokens, None), "B L D")
    batch, _, width = hidden_states.shape
    for name, value in values.items():
        if value is not None:
            samples = 1 if isinstance(value, Tensor) and value.shape[:1] == (1,) else batch
            check_shape(name, value, (samples, rows.num_frames, width), "B F D")
