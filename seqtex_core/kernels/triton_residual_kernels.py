"""Residual sums and norms as Triton kernels: one program per row, or per strip backward.

As in ``triton_kernels``, backward reads a row anew after the threads waited for one another.
"""

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
    statistics_ptr,
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
    KEEP: tl.constexpr,
):
    """``residual = x + gate * update`` and ``norm(residual) * factor + shift`` of one token.

    Gate, and factor and shift if ``PER_FRAME``, are ``[B, F, C]`` rows of the token's frame; they
    may be apart, as parts of one table are. ``KEEP`` writes what backward asks of a token: its mean
    and the factor that makes its mean square 1.
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
            mean = tl.sum(x, axis=0) / C
            x = tl.where(present, x - mean, 0.0)
        inverse = tl.rsqrt(tl.sum(x * x, axis=0) / C + eps)
        if KEEP:
            tl.store(statistics_ptr + 2 * token, inverse)
            if CENTRED:
                tl.store(statistics_ptr + 2 * token + 1, mean)
        x = x * inverse
        place = channel
        if PER_FRAME:
            place = sample * norm_batch_stride + frame * norm_frame_stride + channel
        factor = tl.load(factor_ptr + place, mask=present, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + place, mask=present, other=0.0).to(tl.float32)
        normed = (x * factor + shift).to(normed_ptr.dtype.element_ty)
        start = normed_ptr + sample * normed_batch_stride + row * C
        tl.store(start + channel, normed, mask=present)


@triton.jit
def _plus(a, b, c, d):
    return a + c, b + d


@triton.jit
def residual_norm_backward(
    grad_residual_ptr,
    grad_normed_ptr,
    residual_ptr,
    update_ptr,
    gate_ptr,
    factor_ptr,
    statistics_ptr,
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
    STRIP: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    UPDATE: tl.constexpr,
    GATE: tl.constexpr,
    NORM: tl.constexpr,
    CENTRED: tl.constexpr,
    PER_FRAME: tl.constexpr,
    GATE_SUM: tl.constexpr,
    NORM_SUMS: tl.constexpr,
):
    """Gradients of a strip of rows of one frame; those of gate, factor and shift summed over it.

    ``strip_ptr`` has each strip's first row, the row after its last, and their frame. The residual
    is the sum, or without an update the stream itself; its batch and row strides are those of x.
    """
    program = tl.program_id(0).to(tl.int64)
    sample, strip = program // strips, program % strips
    first = tl.load(strip_ptr + 3 * strip)
    rows = (tl.load(strip_ptr + 3 * strip + 1) - first).to(tl.int32)
    frame = tl.load(strip_ptr + 3 * strip + 2)
    channel = tl.arange(0, BLOCK)
    present = channel < C
    if GATE:
        gate_ptr += sample * gate_batch_stride + frame * gate_frame_stride
        if GATE_SUM:
            gate_sum = tl.zeros((BLOCK,), tl.float32)
    if NORM:
        if PER_FRAME:
            factor_ptr += sample * norm_batch_stride + frame * norm_frame_stride
        if NORM_SUMS:
            factor_sum = tl.zeros((BLOCK,), tl.float32)
            shift_sum = tl.zeros((BLOCK,), tl.float32)
    base = sample * length + first
    residual_ptr += sample * x_batch_stride + first * x_row_stride
    update_ptr += sample * update_batch_stride + first * C
    grad_residual_ptr += base * C
    grad_normed_ptr += base * C
    grad_x_ptr += base * C
    grad_update_ptr += base * C
    statistics_ptr += 2 * base
    for index in range(STRIP):
        # Rows after the last are masked. The minimum keeps the compiler from counting up one
        # address per tensor, which takes 14 registers.
        row = tl.minimum(index, rows - 1)
        inside = channel < tl.where(index < rows, C, 0)
        at = row * C + channel
        if NORM:
            inverse = tl.load(statistics_ptr + 2 * row)
            start = residual_ptr + row * x_row_stride
            x = tl.load(start + channel, mask=present, other=0.0).to(tl.float32)
            grad = tl.load(grad_normed_ptr + at, mask=inside, other=0.0).to(tl.float32)
            scaled = grad * tl.load(factor_ptr + channel, mask=present, other=0.0).to(tl.float32)
            if CENTRED:
                mean = tl.load(statistics_ptr + 2 * row + 1)
                scaled_sum, along = tl.reduce((scaled, scaled * (x - mean)), 0, _plus)
            else:
                along = tl.sum(scaled * x, axis=0)
            x = tl.load(start + channel, mask=present, other=0.0, cache_modifier=".ca")
            unit = x.to(tl.float32)
            if CENTRED:
                unit -= mean
            unit *= inverse
            grad = tl.load(grad_normed_ptr + at, mask=inside, other=0.0, cache_modifier=".ca")
            grad = grad.to(tl.float32)
            if NORM_SUMS:
                factor_sum += grad * unit
                shift_sum += grad
            factor = tl.load(factor_ptr + channel, mask=present, other=0.0, cache_modifier=".ca")
            grad *= factor.to(tl.float32)
            if CENTRED:
                grad -= scaled_sum / C
            grad = (grad - unit * (along * inverse / C)) * inverse
            if UPDATE:
                grad += tl.load(grad_residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        else:
            grad = tl.load(grad_residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
            if GATE_SUM:  # on its way before the threads wait for the gradient to store it
                start = update_ptr + row * C
                update = tl.load(start + channel, mask=present, other=0.0)
        tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=inside)
        if GATE:
            if GATE_SUM:
                if NORM:
                    start = update_ptr + row * C
                    update = tl.load(start + channel, mask=present, other=0.0)
                gate_sum += grad * update.to(tl.float32)
            grad *= tl.load(gate_ptr + channel, mask=present, other=0.0).to(tl.float32)
            kind = grad_update_ptr.dtype.element_ty
            tl.store(grad_update_ptr + at, grad.to(kind), mask=inside)
    part = program * C + channel
    if GATE and GATE_SUM:
        tl.store(gate_parts_ptr + part, gate_sum, mask=present)
    if NORM and NORM_SUMS:
        tl.store(factor_parts_ptr + part, factor_sum, mask=present)
        tl.store(shift_parts_ptr + part, shift_sum, mask=present)
