"""Queries and keys as Triton kernels: one program per row, or per strip of rows backward.

Only the two files of kernels import Triton at once. Rows are loaded as they lie in memory, so that
loads and stores are as wide as they can be; the two halves of a plane are taken apart and put
together in registers. Backward reads a row anew, from the cache, after it waited for the sums over
it, which takes fewer registers than keeping it; ``.ca``, which is what a load does anyway, keeps
the compiler from taking the two loads for one.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _split_planes(rows, HALF: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """Both channels of every plane, each ``[BN, D/2]``, of rows ``[BN, D]``."""
    if HALF:
        planes = tl.permute(tl.reshape(rows, (BN, 2, D // 2)), (0, 2, 1))
    else:
        planes = tl.reshape(rows, (BN, D // 2, 2))
    return tl.split(planes)


@triton.jit
def _join_planes(a, b, HALF: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """The inverse of ``_split_planes``."""
    planes = tl.join(a, b)
    if HALF:
        planes = tl.permute(planes, (0, 2, 1))
    return tl.reshape(planes, (BN, D))


@triton.jit
def _turn(
    rows,
    cos_ptr,
    sin_ptr,
    row,
    N: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    HALF: tl.constexpr,
    PER_HEAD: tl.constexpr,
    BACK: tl.constexpr,
):
    """Rows ``[BN, D]`` turned by the angles of a token, or turned back."""
    pair = tl.arange(0, D // 2)[None, :]
    if PER_HEAD:
        head = tl.arange(0, BN)[:, None]
        at = (row * N + head) * (D // 2) + pair
        cos = tl.load(cos_ptr + at, mask=head < N, other=0.0)
        sin = tl.load(sin_ptr + at, mask=head < N, other=0.0)
    else:
        cos = tl.load(cos_ptr + row * (D // 2) + pair)
        sin = tl.load(sin_ptr + row * (D // 2) + pair)
    cos, sin = cos.to(tl.float32), sin.to(tl.float32)
    if BACK:
        sin = -sin
    a, b = _split_planes(rows, HALF, BN, D)
    return _join_planes(a * cos - b * sin, a * sin + b * cos, HALF, BN, D)


@triton.jit
def _mean(rows, N: tl.constexpr, D: tl.constexpr, PER_HEAD: tl.constexpr):
    """Mean over a head, ``[BN, 1]``, or over all heads; masked channels must be 0."""
    if PER_HEAD:
        mean = (tl.sum(rows, axis=1) / D)[:, None]
    else:
        mean = tl.sum(tl.sum(rows, axis=1), axis=0) / (N * D)
    return mean


@triton.jit
def _plus(a, b, c, d):
    return a + c, b + d


@triton.jit
def _two_means(a, b, N: tl.constexpr, D: tl.constexpr, PER_HEAD: tl.constexpr):
    """``_mean`` of both, for which the threads wait for one another once."""
    a, b = tl.reduce((a, b), 1, _plus)
    if PER_HEAD:
        a, b = (a / D)[:, None], (b / D)[:, None]
    else:
        a, b = tl.reduce((a, b), 0, _plus)
        a, b = a / (N * D), b / (N * D)
    return a, b


@triton.jit
def _standardised(
    x,
    present,
    eps,
    N: tl.constexpr,
    D: tl.constexpr,
    LAYER: tl.constexpr,
    PER_HEAD: tl.constexpr,
):
    """Rows with mean square 1, and mean 0 for LayerNorm."""
    if LAYER:
        x = tl.where(present, x - _mean(x, N, D, PER_HEAD), 0.0)
    return x * tl.rsqrt(_mean(x * x, N, D, PER_HEAD) + eps)


@triton.jit
def prepare_forward(
    x_ptr,
    out_ptr,
    weight_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    geometry_ptr,
    length,
    x_batch_stride,
    x_row_stride,
    geometry_batch_stride,
    geometry_row_stride,
    eps,
    N: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    NORM: tl.constexpr,
    LAYER: tl.constexpr,
    NORM_PER_HEAD: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    ROPE: tl.constexpr,
    ROPE_PER_HEAD: tl.constexpr,
    HALF: tl.constexpr,
    GEOMETRY: tl.constexpr,
    GEOMETRY_FIRST: tl.constexpr,
):
    """``rope(norm(x)) + geometry`` or ``rope(norm(x) + geometry)`` of one token."""
    token = tl.program_id(0).to(tl.int64)
    sample, row = token // length, token % length
    head = tl.arange(0, BN)[:, None]
    channel = tl.arange(0, D)[None, :]
    at = head * D + channel
    present = (head < N) & (channel < D)
    start = x_ptr + sample * x_batch_stride + row * x_row_stride
    rows = tl.load(start + at, mask=present, other=0.0).to(tl.float32)
    if NORM:
        rows = _standardised(rows, present, eps, N, D, LAYER, NORM_PER_HEAD)
        where = channel if NORM_PER_HEAD else at
        inside = (channel < D) if NORM_PER_HEAD else present
        if WEIGHT:
            rows = rows * tl.load(weight_ptr + where, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            rows = rows + tl.load(bias_ptr + where, mask=inside, other=0.0).to(tl.float32)
    if GEOMETRY:
        start = geometry_ptr + sample * geometry_batch_stride + row * geometry_row_stride
        geometry = tl.load(start + at, mask=present, other=0.0).to(tl.float32)
    if GEOMETRY and GEOMETRY_FIRST:
        rows = rows + geometry
    if ROPE:
        rows = _turn(rows, cos_ptr, sin_ptr, row, N, D, BN, HALF, ROPE_PER_HEAD, False)
    if GEOMETRY and not GEOMETRY_FIRST:
        rows = rows + geometry
    tl.store(out_ptr + token * (N * D) + at, rows.to(out_ptr.dtype.element_ty), mask=present)


@triton.jit
def prepare_backward(
    grad_ptr,
    x_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    grad_x_ptr,
    grad_geometry_ptr,
    weight_parts_ptr,
    bias_parts_ptr,
    tokens,
    length,
    x_batch_stride,
    x_row_stride,
    eps,
    STRIP: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    NORM: tl.constexpr,
    LAYER: tl.constexpr,
    NORM_PER_HEAD: tl.constexpr,
    WEIGHT: tl.constexpr,
    ROPE: tl.constexpr,
    ROPE_PER_HEAD: tl.constexpr,
    HALF: tl.constexpr,
    TURNED_GEOMETRY: tl.constexpr,
    WEIGHT_SUM: tl.constexpr,
    BIAS_SUM: tl.constexpr,
):
    """Gradients of a strip of tokens; those of weight and bias, if asked for, summed over it.

    ``TURNED_GEOMETRY`` writes the gradient of geometry that was added before the rotation; that of
    geometry added after it is the incoming gradient itself.
    """
    strip = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BN)[:, None]
    channel = tl.arange(0, D)[None, :]
    at = head * D + channel
    present = (head < N) & (channel < D)
    where = channel if NORM_PER_HEAD else at
    known = (channel < D) if NORM_PER_HEAD else present
    if WEIGHT_SUM:
        weight_sum = tl.zeros((BN, D), tl.float32)
    if BIAS_SUM:
        bias_sum = tl.zeros((BN, D), tl.float32)
    for index in range(STRIP):
        token = strip * STRIP + index
        inside = (head < tl.where(token < tokens, N, 0)) & (channel < D)
        token = tl.minimum(token, tokens - 1)
        sample, row = token // length, token % length
        if NORM:  # on its way before the threads wait for the gradient to turn it
            start = x_ptr + sample * x_batch_stride + row * x_row_stride
            x = tl.load(start + at, mask=present, other=0.0)
        grad = tl.load(grad_ptr + token * (N * D) + at, mask=inside, other=0.0).to(tl.float32)
        if ROPE:
            grad = _turn(grad, cos_ptr, sin_ptr, row, N, D, BN, HALF, ROPE_PER_HEAD, True)
        if TURNED_GEOMETRY:
            kind = grad_geometry_ptr.dtype.element_ty
            tl.store(grad_geometry_ptr + token * (N * D) + at, grad.to(kind), mask=inside)
        if NORM:
            x = x.to(tl.float32)
            scaled = grad
            if WEIGHT:
                scaled *= tl.load(weight_ptr + where, mask=known, other=0.0).to(tl.float32)
            if LAYER:
                mean, scaled_mean = _two_means(x, scaled, N, D, NORM_PER_HEAD)
                x = tl.where(present, x - mean, 0.0)
            squares, along = _two_means(x * x, scaled * x, N, D, NORM_PER_HEAD)
            inverse = tl.rsqrt(squares + eps)
            x = tl.load(start + at, mask=present, other=0.0, cache_modifier=".ca").to(tl.float32)
            if LAYER:
                x -= mean
            unit = x * inverse
            if WEIGHT_SUM:
                weight_sum += grad * unit
            if BIAS_SUM:
                bias_sum += grad
            if LAYER:
                scaled -= scaled_mean
            grad = (scaled - unit * (along * inverse)) * inverse
        kind = grad_x_ptr.dtype.element_ty
        tl.store(grad_x_ptr + token * (N * D) + at, grad.to(kind), mask=inside)
    if WEIGHT_SUM:
        tl.store(weight_parts_ptr + strip * (N * D) + at, weight_sum, mask=present)
    if BIAS_SUM:
        tl.store(bias_parts_ptr + strip * (N * D) + at, bias_sum, mask=present)
