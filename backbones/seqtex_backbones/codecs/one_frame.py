"""Causal 3-D convolutions on a video of one frame, as the 2-D convolutions that they are.

Of a causal kernel's time taps only the last one sees the frame itself; the others see what comes
before a first frame. Where that is zeros, they drop out (Wan); where it is the first frame
repeated, all taps see the same and add up (CogVideoX). Either way a convolution of ``t`` taps costs
a ``t``-th of its FLOPs, and no padded copy of the frame is made.

The 2-D kernels are made from the 3-D weights at every call: a copy of a kernel costs nothing beside
a convolution of an image, and weights stay where diffusers keeps them.

Source:
    Wan (arXiv 2503.20314), section 4.1; CogVideoX (arXiv 2408.06072), section 2.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

History = Literal["zeros", "repeat"]
"""What a causal convolution sees before the first frame."""


def one_frame_kernel(weight: Tensor, history: History) -> Tensor:
    """The kernel ``[O, I, H, W]`` that a causal one ``[O, I, T, H, W]`` is for a single frame.

    Args:
        weight: of the 3-D convolution.
        history: what it sees before the frame.
    """
    if weight.shape[2] == 1 or history == "zeros":
        return weight[:, :, -1]
    first, *others = weight.to(_wide(weight)).unbind(2)
    for tap in others:  # three times as fast as a sum over the middle dimension
        first = first + tap
    return first.to(weight.dtype)


def memory_order(frames: Tensor) -> torch.memory_format:
    """Order of dimensions in memory in which convolutions run best on the device of ``frames``.

    Channels last on GPUs. On CPUs it would be up to 1.5 times faster as well, but sums every output
    one product after the other: the error of 384 channels is four times that of the plain order.
    """
    return torch.contiguous_format if frames.device.type == "cpu" else torch.channels_last


def convolve(
    frames: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: tuple[int, int] | None = None,
) -> Tensor:
    """2-D convolution, padded to keep the size by default.

    Args:
        frames: ``[N, C, H, W]``.
        kernel: ``[O, C, h, w]``, odd sizes unless ``padding`` is given.
        bias: ``[O]``.
        stride: in both directions.
        padding: zeros on both sides, in height and width.
    """
    if padding is None:
        padding = (kernel.shape[-2] // 2, kernel.shape[-1] // 2)
    kernel = kernel.contiguous(memory_format=memory_order(frames))
    return functional.conv2d(frames, kernel, bias, stride=stride, padding=padding)


def convolve_upsampled(frames: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv`` of the frames at twice their size (nearest), ``[N, O, 2H, 2W]``.

    Three neighbours of a doubled image are two neighbours of the original, so that each of the four
    positions in a doubled pixel has a 2 x 2 kernel of sums: 4/9 of the FLOPs, and the doubled image
    is never made.

    Args:
        frames: ``[N, C, H, W]``.
        conv: 3 x 3, stride 1, padding 1.
    """
    assert conv.kernel_size == (3, 3)
    assert conv.stride == (1, 1)
    assert conv.padding == (1, 1)
    assert conv.bias is not None
    height, width = frames.shape[-2:]
    phases = convolve(frames, doubled_kernel(conv.weight), conv.bias.repeat(4), padding=(1, 1))
    phases = phases.unflatten(1, (2, 2, -1))  # [N, row, column, O, H + 1, W + 1]
    size = (len(frames), conv.out_channels, 2 * height, 2 * width)
    doubled = torch.empty(
        size, dtype=phases.dtype, device=phases.device, memory_format=memory_order(frames)
    )
    for row in (0, 1):
        for column in (0, 1):
            part = phases[:, row, column, :, row : row + height, column : column + width]
            doubled[:, :, row::2, column::2] = part
    return doubled


def doubled_kernel(weight: Tensor) -> Tensor:
    """Kernels ``[4 O, I, 2, 2]`` of the four phases of a doubled image, (row, column) slowest.

    Args:
        weight: ``[O, I, 3, 3]``.
    """
    wide = weight.to(_wide(weight))
    # the even position sees (left, own + own), the odd one (own + own, right)
    sums = wide.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    phases = torch.einsum("pyr,qxc,oirc->pqoiyx", sums, sums, wide)
    return phases.flatten(0, 2).to(weight.dtype)


def activate(hidden_states: Tensor, nonlinearity: nn.Module) -> Tensor:
    """The nonlinearity; SiLU in place, as ``hidden_states`` is a result nobody else holds."""
    if isinstance(nonlinearity, nn.SiLU):
        return functional.silu(hidden_states, inplace=True)
    activated: Tensor = nonlinearity(hidden_states)
    return activated


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
