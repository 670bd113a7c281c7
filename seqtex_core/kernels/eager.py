"""The fused operations without a compiler: fewer and smaller passes over memory in plain PyTorch.

On a CPU the rows are taken in pieces that fit into the cache, so that the wide intermediate values
never travel to memory. Elsewhere whole tensors are taken, and the last operation of a chain writes
the narrow result itself. Both write into tensors that exist already, which autograd does not allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ..frames import StreamLayout
from ..rope.rotate import Rope, compute_dtype, rotate_in_place
from .choose import NO_TRANSFORMS, KernelInputs

if TYPE_CHECKING:
    from ..modulation import NormKind, RowNorm
    from ..query_key import GeometryOrder, QKNorm

PIECE = 1 << 16
"""Elements of a piece for one thread: three of them in fp32 stay in a cache of a megabyte."""


def prepare_rows(
    x: Tensor,
    norm: QKNorm | None,
    *,
    num_heads: int,
    rope: Rope | None,
    geometry: Tensor | None,
    geometry_order: GeometryOrder = "post_rope",
) -> Tensor:
    """``rope(norm(x)) + geometry``, ``[B, L, N, D]``; see ``qk_prep``. Inputs are checked."""
    heads = (num_heads, x.shape[-1] // num_heads)
    if norm is not None and _has_narrow_kernel(x, norm):
        x, norm = functional.rms_norm(x, x.shape[-1:], norm.weight, norm.eps), None
    if norm is None and rope is None and geometry is None:
        unchanged: Tensor = x.unflatten(-1, heads)
        return unchanged
    out = x.new_empty(*x.shape[:-1], *heads)
    for rows in _pieces(x.shape[1], x):
        wide = _normalised(x[:, rows].unflatten(-1, heads), norm)
        if geometry is not None and geometry_order == "pre_rope":
            wide.add_(geometry[:, rows])
        if rope is not None:
            wide = rotate_in_place(wide, rope, rows)
        if geometry is None or geometry_order == "pre_rope":
            out[:, rows] = wide
        else:
            torch.add(wide, geometry[:, rows], out=out[:, rows])
    return out


def modulated_norm(
    x: Tensor,
    shift: Tensor,
    factor: Tensor,
    rows: StreamLayout,
    *,
    eps: float,
    kind: NormKind = "layer",
    out: Tensor | None = None,
) -> Tensor:
    """``norm(x) * factor + shift`` per frame, ``[B, L, D]`` in the dtype of ``x``.

    On a CPU the modulation is the affine part of the norm, computed in fp32 and rounded once.
    Elsewhere the norm is rounded to the dtype of ``x`` before it is modulated: kernels for narrow
    rows and wide parameters do not exist there.
    """
    size = x.shape[-1:]
    if not _in_pieces(x):
        norm = functional.layer_norm if kind == "layer" else functional.rms_norm
        normed = norm(x, size, eps=eps)
        return _per_frame_addcmul(shift, normed, factor, rows, like=x, out=out)
    factor, shift = _fitting(factor, x), _fitting(shift, x)
    if out is None and kind == "layer" and x.shape[0] * len(rows.frame_lengths) == 1:
        return functional.layer_norm(x, size, factor[0, 0], shift[0, 0], eps)
    out = torch.empty_like(x) if out is None else out
    for frame, piece in _frame_pieces(rows, x):
        for sample in range(x.shape[0]):
            affine = factor[sample, frame], shift[sample, frame]
            out[sample, piece] = _affine_rows(x[sample, piece], *affine, eps=eps, kind=kind)
    return out


def affine_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """``layer_norm(x) * weight + bias`` with wide parameters, in the dtype of ``x``.

    Rounded as :func:`modulated_norm` does.
    """
    if _in_pieces(x) or weight.dtype == x.dtype:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
    normed = functional.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(bias, normed, weight, out=torch.empty_like(x))


def gated_residual(x: Tensor, update: Tensor, gate: Tensor, rows: StreamLayout) -> Tensor:
    """``x + gate * update`` per frame, summed in fp32 and rounded once."""
    if not _in_pieces(x):
        return _per_frame_addcmul(x, update, gate, rows, like=x)
    out = torch.empty_like(x)
    for frame, piece in _frame_pieces(rows, x):
        level = gate[:, frame : frame + 1]
        _add(x[:, piece], update[:, piece], level, out=out[:, piece])
    return out


def residual_norm(
    x: Tensor,
    update: Tensor,
    rows: StreamLayout,
    *,
    gate: Tensor | None,
    norm: RowNorm,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x + gate * update``, and the norm of it; on a CPU while it is in the cache."""
    factor, shift, eps, kind = norm
    if not _in_pieces(x):
        residual = x + update if gate is None else gated_residual(x, update, gate, rows)
        if factor.ndim == 3:
            normed = modulated_norm(residual, shift, factor, rows, eps=eps, kind=kind, out=out)
            return residual, normed
        normed = affine_norm(residual, factor, shift, eps=eps)
        return residual, normed if out is None else out.copy_(normed)
    factor, shift = _fitting(factor, x), _fitting(shift, x)
    residual = torch.empty_like(x)
    out = torch.empty_like(x) if out is None else out
    for frame, piece in _frame_pieces(rows, x):
        level = None if gate is None else gate[:, frame : frame + 1]
        own = residual[:, piece]
        _add(x[:, piece], update[:, piece], level, out=own)
        for sample in range(x.shape[0]):
            affine = (factor, shift)
            if factor.ndim == 3:
                affine = factor[sample, frame], shift[sample, frame]
            out[sample, piece] = _affine_rows(own[sample], *affine, eps=eps, kind=kind)
    return residual, out


def _affine_rows(x: Tensor, factor: Tensor, shift: Tensor, *, eps: float, kind: NormKind) -> Tensor:
    """``norm(x) * factor + shift`` of rows ``[l, D]`` with values ``[D]``."""
    if kind == "layer":
        return functional.layer_norm(x, x.shape[-1:], factor, shift, eps)
    return torch.addcmul(shift, _unit_rms(x.to(compute_dtype(x)), eps), factor)


def _unit_rms(rows: Tensor, eps: float) -> Tensor:
    """Wide rows divided by their root mean square; PyTorch has no kernel of its own on a CPU."""
    square = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()
    unit: Tensor = rows * square.div_(rows.shape[-1]).add_(eps).rsqrt_()
    return unit


def _add(x: Tensor, update: Tensor, gate: Tensor | None, *, out: Tensor) -> None:
    """``x + gate * update`` of some rows of a frame, summed in fp32 and rounded once."""
    wide = compute_dtype(x)
    if gate is None:
        torch.add(x, update, out=out)
    elif wide == x.dtype == update.dtype == gate.dtype:
        torch.addcmul(x, update, gate, out=out)
    else:
        out.copy_((update.to(wide) * gate).add_(x))


def _per_frame_addcmul(
    first: Tensor,
    factor: Tensor,
    by: Tensor,
    rows: StreamLayout,
    *,
    like: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """``first + factor * by`` in one kernel; ``by``, and ``first`` unless ``like``, per frame."""
    out = torch.empty_like(like) if out is None else out
    length = rows.uniform_length()
    if length is None:
        frame = rows.frame_of_row(like.device)
        spread = first if first is like else first.index_select(1, frame)
        return torch.addcmul(spread, factor, by.index_select(1, frame), out=out)
    shape = (rows.num_frames, length)
    framed: Tensor = first.unflatten(1, shape) if first is like else first.unsqueeze(2)
    torch.addcmul(framed, factor.unflatten(1, shape), by.unsqueeze(2), out=out.unflatten(1, shape))
    return out


def _fitting(parameter: Tensor, x: Tensor) -> Tensor:
    """As a CPU's LayerNorm takes it: in fp32 beside narrow rows, else in the dtype of the rows."""
    return parameter.to(compute_dtype(x))


def _has_narrow_kernel(x: Tensor, norm: QKNorm) -> bool:
    """Whether PyTorch has one kernel for the norm that takes and gives rows as narrow as ``x``."""
    fits = norm.weight is not None and norm.weight.dtype == x.dtype and norm.bias is None
    whole = norm.kind == "rms" and norm.scope == "inner" and x.is_contiguous()
    return fits and whole and not _in_pieces(x)


def _normalised(x: Tensor, norm: QKNorm | None) -> Tensor:
    """A new tensor with the norm of rows ``[B, l, N, D]``, in fp32 or fp64."""
    wide = compute_dtype(x)
    if norm is None:
        return x.to(wide, copy=True, memory_format=torch.contiguous_format)
    rows = x.flatten(2) if norm.scope == "inner" else x
    rows = rows.to(wide)
    weight = None if norm.weight is None else norm.weight.to(wide)
    bias = None if norm.bias is None else norm.bias.to(wide)
    size = rows.shape[-1:]
    if norm.kind == "layer":
        centred: Tensor = functional.layer_norm(rows, size, weight, bias, norm.eps)
        return centred.view(x.shape)
    if _in_pieces(x):
        normed = _unit_rms(rows, norm.eps)
        normed = normed if weight is None else normed.mul_(weight)
    else:
        normed = functional.rms_norm(rows, size, weight, norm.eps)
    shifted: Tensor = normed if bias is None else normed.add_(bias)
    return shifted.view(x.shape)


def _in_pieces(x: Tensor) -> bool:
    """Whether rows are taken in pieces; tests take the other way on a CPU too."""
    return x.device.type == "cpu"


def _pieces(length: int, x: Tensor) -> Iterator[slice]:
    """Rows that fit into the cache together; all of them where there is no CPU."""
    step = rows_of_piece(x.shape[0] * x.shape[-1])
    if not _in_pieces(x) or length <= step:
        yield slice(None)
        return
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _frame_pieces(rows: StreamLayout, x: Tensor) -> Iterator[tuple[int, slice]]:
    """Every frame's rows, in pieces that fit into the cache."""
    step, start = rows_of_piece(x.shape[0] * x.shape[-1]), 0
    for frame, length in enumerate(rows.frame_lengths):
        for at in range(start, start + length, step):
            yield frame, slice(at, min(at + step, start + length))
        start += length


def rows_of_piece(width: int) -> int:
    """Rows of ``width`` elements that fit into the caches of all threads together."""
    return max(1, PIECE * torch.get_num_threads() // width)


class EagerKernels:
    """PyTorch's own kernels, writing into tensors that exist; without gradients."""

    name = "eager"
    prepare_rows = staticmethod(prepare_rows)
    modulated_norm = staticmethod(modulated_norm)
    affine_norm = staticmethod(affine_norm)
    gated_residual = staticmethod(gated_residual)
    residual_norm = staticmethod(residual_norm)

    def reason_unsupported(self, inputs: KernelInputs) -> str | None:
        """Gradients, transforms, and autocast, which may take single operations elsewhere."""
        if inputs.transformed:
            return NO_TRANSFORMS
        if inputs.autocast:
            return "leaves autocast to 'plain', which rounds once wherever it runs"
        return "has no gradients" if inputs.needs_grad else None


EAGER = EagerKernels()
