"""The forward of diffusers' ``AutoencoderKLCogVideoX`` for single frames, exact and 2-D.

Only the modules' weights are used. A first frame is preceded by itself, so that time taps add up;
it is neither averaged with others nor doubled. The decoder's norms are shifted and scaled by the
latents at every pixel; their 1 x 1 convolutions run at the size of the latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .one_frame import activate, convolve, convolve_upsampled, memory_order, one_frame_kernel


def encode(vae: nn.Module, frames: Tensor) -> Tensor:
    """Mean and log-variance ``[N, 2 z, h, w]`` of frames ``[N, 3, H, W]``."""
    model: Any = vae
    encoder = model.encoder
    x = _causal(frames.contiguous(memory_format=memory_order(frames)), encoder.conv_in)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = _residual(x, resnet, None)
        for downsampler in block.downsamplers or ():
            conv = downsampler.conv
            padded = functional.pad(x, (0, 1, 0, 1))
            x = convolve(padded, conv.weight, conv.bias, stride=2, padding=conv.padding)
    for resnet in encoder.mid_block.resnets:
        x = _residual(x, resnet, None)
    x = _causal(activate(_norm(x, encoder.norm_out, None), encoder.conv_act), encoder.conv_out)
    return x if model.quant_conv is None else _plain(x, model.quant_conv)


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Frames ``[N, 3, H, W]`` of latents ``[N, z, h, w]``."""
    model: Any = vae
    decoder = model.decoder
    z = latents.contiguous(memory_format=memory_order(latents))
    if model.post_quant_conv is not None:
        z = _plain(z, model.post_quant_conv)
    x = _causal(z, decoder.conv_in)
    for resnet in decoder.mid_block.resnets:
        x = _residual(x, resnet, z)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _residual(x, resnet, z)
        for upsampler in block.upsamplers or ():
            x = convolve_upsampled(x, upsampler.conv)
    return _causal(activate(_norm(x, decoder.norm_out, z), decoder.conv_act), decoder.conv_out)


def _residual(x: Tensor, block: Any, z: Tensor | None) -> Tensor:
    shortcut = x
    if block.in_channels != block.out_channels:
        conv = block.conv_shortcut
        shortcut = _causal(x, conv) if block.use_conv_shortcut else _plain(x, conv)
    x = _causal(activate(_norm(x, block.norm1, z), block.nonlinearity), block.conv1)
    x = activate(_norm(x, block.norm2, z), block.nonlinearity)
    return _causal(block.dropout(x), block.conv2).add_(shortcut)


def _norm(x: Tensor, norm: Any, z: Tensor | None) -> Tensor:
    """Group norm; with latents ``z``, scaled and shifted by them at every pixel."""
    if z is None:
        normed: Tensor = norm(x)
        return normed
    normed = norm.norm_layer(x)
    scale, shift = _causal(z, norm.conv_y), _causal(z, norm.conv_b)
    height, width = z.shape[-2:]
    assert x.shape[-2] % height == 0
    assert x.shape[-1] % width == 0
    cells = normed.unflatten(3, (width, -1)).unflatten(2, (height, -1))
    scale, shift = scale[:, :, :, None, :, None], shift[:, :, :, None, :, None]
    return torch.addcmul(shift, cells, scale).flatten(4, 5).flatten(2, 3)


def _causal(x: Tensor, causal: Any) -> Tensor:
    conv = causal.conv
    kernel = one_frame_kernel(conv.weight, "repeat")
    if causal.pad_mode == "replicate":
        width, height = causal.width_pad, causal.height_pad
        x = functional.pad(x, (width, width, height, height), mode="replicate")
        return convolve(x, kernel, conv.bias, padding=(0, 0))
    return convolve(x, kernel, conv.bias, padding=(causal.height_pad, causal.width_pad))


def _plain(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """A 1 x 1 x 1 convolution."""
    return convolve(x, conv.weight[:, :, -1], conv.bias)
