"""Residual sums and norms as Triton kernels: one program per row, or per strip backward."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def residual_norm_forward(
    x_ptr,
    update_ptr,
    gate_ptr,
    factor_ptr,
    shift_ptr,
    frame_ptr,
    residual_ptr,
    normed_ptr,
    length,
    x_batch_stride,
    x_row_stride,
    update_batch_stride,
    gate_batch_stride,
    gate_frame_stride,
    norm_batch_stride,
    norm_frame_stride,
    normed_batch_stride,
    eps,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    UPDATE: tl.constexpr,
    GATE: tl.constexpr,
    NORM: tl.constexpr,
    CENTRED: tl.constexpr,
    PER_FRAME: tl.constexpr,
):
    """``residual = x + gate * update`` and ``norm(residual) * factor + shift`` of one token.

    Gate, and factor and shift if ``PER_FRAME``, are ``[B, F, C]`` rows of the token's frame; they
    may be apart, as parts of one table are.
    """
    token = tl.program_id(0).to(tl.int64)
    sample, row = token // length, token % length
    channel = tl.arange(0, BLOCK)
    present = channel < C
    start = x_ptr + sample * x_batch_stride + row * x_row_stride
    x = tl.load(start + channel, mask=present, other=0.0).to(tl.float32)
    if GATE or PER_FRAME:
        frame = tl.load(frame_ptr + row)
    if UPDATE:
        start = update_ptr + sample * update_batch_stride + row * C
        update = tl.load(start + channel, mask=present, other=0.0).to(tl.float32)
        if GATE:
            level = sample * gate_batch_stride + frame * gate_frame_stride + channel
            update = update * tl.load(gate_ptr + level, mask=present, other=0.0).to(tl.float32)
        narrow = (x + update).to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + token * C + channel, narrow, mask=present)
        x = narrow.to(tl.float32)
    if NORM:
        if CENTRED:
            x = tl.where(present, x - tl.sum(x, axis=0) / C, 0.0)
        x = x * tl.rsqrt(tl.sum(x * x, axis=0) / C + eps)
        place = channel
        if PER_FRAME:
            place = sample * norm_batch_stride + frame * norm_frame_stride + channel
        factor = tl.load(factor_ptr + place, mask=present, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + place, mask=present, other=0.0).to(tl.float32)
        normed = (x * factor + shift).to(normed_ptr.dtype.element_ty)
        start = normed_ptr + sample * normed_batch_stride + row * C
        tl.store(start + channel, normed, mask=present)


@triton.jit
def residual_norm_backward(
    grad_residual_ptr,
    grad_normed_ptr,
    residual_ptr,
    update_ptr,
    gate_ptr,
    factor_ptr,
    strip_ptr,
    grad_x_ptr,
    grad_update_ptr,
    gate_parts_ptr,
    factor_parts_ptr,
    shift_parts_ptr,
    length,
    strips,
    x_batch_stride,
    x_row_stride,
    update_batch_stride,
    gate_batch_stride,
    gate_frame_stride,
    norm_batch_stride,
    norm_frame_stride,
    eps,
    STRIP: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    UPDATE: tl.constexpr,
    GATE: tl.constexpr,
    NORM: tl.constexpr,
    CENTRED: tl.constexpr,
    PER_FRAME: tl.constexpr,
):
    """Gradients of a strip of rows of one frame; those of gate, factor and shift summed over it.

    ``strip_ptr`` has each strip's first row, the row after its last, and their frame. The residual
    is the sum, or without an update the stream itself; its batch and row strides are those of x.
    """
    program = tl.program_id(0).to(tl.int64)
    sample, strip = program // strips, program % strips
    first = tl.load(strip_ptr + 3 * strip)
    end = tl.load(strip_ptr + 3 * strip + 1)
    frame = tl.load(strip_ptr + 3 * strip + 2)
    channel = tl.arange(0, BLOCK)
    present = channel < C
    if GATE:
        level = sample * gate_batch_stride + frame * gate_frame_stride + channel
        gate_sum = tl.zeros((BLOCK,), tl.float32)
    if NORM:
        place = channel
        if PER_FRAME:
            place = sample * norm_batch_stride + frame * norm_frame_stride + channel
        factor_sum = tl.zeros((BLOCK,), tl.float32)
        shift_sum = tl.zeros((BLOCK,), tl.float32)
    for index in range(STRIP):
        row = first + index
        inside = channel < tl.where(row < end, C, 0)
        at = (sample * length + row) * C + channel
        if NORM:
            start = residual_ptr + sample * x_batch_stride + row * x_row_stride
            unit = tl.load(start + channel, mask=inside, other=0.0).to(tl.float32)
            if CENTRED:
                unit = tl.where(inside, unit - tl.sum(unit, axis=0) / C, 0.0)
            inverse = tl.rsqrt(tl.sum(unit * unit, axis=0) / C + eps)
            unit = unit * inverse
            incoming = tl.load(grad_normed_ptr + at, mask=inside, other=0.0).to(tl.float32)
            factor_sum += incoming * unit
            shift_sum += incoming
            incoming *= tl.load(factor_ptr + place, mask=present, other=0.0).to(tl.float32)
            along = tl.sum(incoming * unit, axis=0) / C
            if CENTRED:
                incoming -= tl.sum(incoming, axis=0) / C
            grad = (incoming - unit * along) * inverse
            if UPDATE:
                grad += tl.load(grad_residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        else:
            grad = tl.load(grad_residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if GATE:
            start = update_ptr + sample * update_batch_stride + row * C
            update = tl.load(start + channel, mask=inside, other=0.0).to(tl.float32)
            gate_sum += grad * update
            gate = tl.load(gate_ptr + level, mask=present, other=0.0).to(tl.float32)
            kind = grad_update_ptr.dtype.element_ty
            tl.store(grad_update_ptr + at, (grad * gate).to(kind), mask=inside)
        tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=inside)
    part = program * C + channel
    if GATE:
        tl.store(gate_parts_ptr + part, gate_sum, mask=present)
    if NORM:
        tl.store(factor_parts_ptr + part, factor_sum, mask=present)
        tl.store(shift_parts_ptr + part, shift_sum, mask=present)
