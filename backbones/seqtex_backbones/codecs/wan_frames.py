"""The forward of diffusers' ``AutoencoderKLWan`` for single frames, exact and 2-D.

Only the modules' weights are used. Time is never halved or doubled for a first frame; everything
else is the original's order of operations. Versions 2.1 and 2.2 (residual blocks, patches).
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from .one_frame import activate, convolve, convolve_upsampled, memory_order, one_frame_kernel


def encode(vae: nn.Module, frames: Tensor) -> Tensor:
    """Mean and log-variance ``[N, 2 z, h, w]`` of frames ``[N, 3, H, W]``."""
    return encode_last(vae, encode_first(vae, frames))


def encode_first(vae: nn.Module, frames: Tensor) -> Tensor:
    """The encoder down to the size of the latents; every value sees its neighbourhood only."""
    model: Any = vae
    patch = model.config.patch_size or 1
    x = rearrange(frames, "n c (h p) (w q) -> n (c q p) h w", p=patch, q=patch)
    x = _causal(x.contiguous(memory_format=memory_order(x)), model.encoder.conv_in)
    for block in model.encoder.down_blocks:
        x = _down(x, block)
    return x


def encode_last(vae: nn.Module, hidden_states: Tensor) -> Tensor:
    """The rest of the encoder; its attention sees the whole frame."""
    model: Any = vae
    encoder = model.encoder
    x = _middle(hidden_states, encoder.mid_block)
    x = activate(_norm(x, encoder.norm_out), encoder.nonlinearity)
    return _causal(_causal(x, encoder.conv_out), model.quant_conv)


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Frames ``[N, 3, H, W]``, cut to [-1, 1], of latents ``[N, z, h, w]``."""
    return decode_last(vae, decode_first(vae, latents))


def decode_first(vae: nn.Module, latents: Tensor) -> Tensor:
    """The decoder at the size of the latents; its attention sees the whole frame."""
    model: Any = vae
    x = latents.contiguous(memory_format=memory_order(latents))
    x = _causal(_causal(x, model.post_quant_conv), model.decoder.conv_in)
    return _middle(x, model.decoder.mid_block)


def decode_last(vae: nn.Module, hidden_states: Tensor) -> Tensor:
    """The rest of the decoder; every pixel sees its neighbourhood only."""
    model: Any = vae
    decoder, x = model.decoder, hidden_states
    for block in decoder.up_blocks:
        x = _up(x, block)
    x = activate(_norm(x, decoder.norm_out), decoder.nonlinearity)
    x = _causal(x, decoder.conv_out)
    patch = model.config.patch_size or 1
    frames: Tensor = rearrange(x, "n (c q p) h w -> n c (h p) (w q)", p=patch, q=patch)
    return frames.clamp(-1.0, 1.0)


def encoder_reach(vae: nn.Module) -> int:
    """Latent texels, in each direction, that a value of :func:`encode_first` depends on."""
    model: Any = vae
    pixels = halvings = 0
    for module in reversed(list(model.encoder.down_blocks.modules())):
        kind = type(module).__name__
        if kind == "WanResidualBlock":
            pixels += 2
        elif kind == "WanResample":
            pixels, halvings = 2 * pixels + 2, halvings + 1
    return -(-(pixels + 1) // (1 << halvings))


def decoder_reach(vae: nn.Module) -> int:
    """Latent texels, in each direction, that a pixel of :func:`decode_last` depends on."""
    model: Any = vae
    texels = 1
    for block in reversed(model.decoder.up_blocks):
        if _upsampler(block) is not None:
            texels = -(-(texels + 1) // 2)
        texels += 2 * len(block.resnets)
    return texels


def _down(x: Tensor, block: Any) -> Tensor:
    """One entry of ``down_blocks``: a residual block, a halving, or both."""
    kind = type(block).__name__
    if kind == "WanResidualBlock":
        return _residual(x, block)
    if kind == "WanResample":
        return _halve(x, block)
    assert kind == "WanResidualDownBlock", kind
    shortcut: Tensor = block.avg_shortcut(x.unsqueeze(2)).squeeze(2)
    for resnet in block.resnets:
        x = _residual(x, resnet)
    if block.downsampler is not None:
        x = _halve(x, block.downsampler)
    return x + shortcut


def _up(x: Tensor, block: Any) -> Tensor:
    """Residual blocks, then a doubling; in version 2.2 with a shortcut around both."""
    start = x
    for resnet in block.resnets:
        x = _residual(x, resnet)
    upsampler = _upsampler(block)
    if upsampler is not None:
        x = convolve_upsampled(x, upsampler.resample[1])
    shortcut = getattr(block, "avg_shortcut", None)
    if shortcut is not None:
        x = x + shortcut(start.unsqueeze(2), first_chunk=True).squeeze(2)
    return x


def _upsampler(block: Any) -> Any:
    if hasattr(block, "upsampler"):
        return block.upsampler
    return None if block.upsamplers is None else block.upsamplers[0]


def _halve(x: Tensor, resample: Any) -> Tensor:
    """Zeros on the right and below, then a convolution of stride 2; a first frame has no other."""
    conv = resample.resample[1]
    return convolve(
        functional.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2, padding=(0, 0)
    )


def _middle(x: Tensor, block: Any) -> Tensor:
    x = _residual(x, block.resnets[0])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(_attention(x, attention), resnet)
    return x


def _residual(x: Tensor, block: Any) -> Tensor:
    shortcut = (
        x if isinstance(block.conv_shortcut, nn.Identity) else _causal(x, block.conv_shortcut)
    )
    x = _causal(activate(_norm(x, block.norm1), block.nonlinearity), block.conv1)
    x = activate(_norm(x, block.norm2), block.nonlinearity)
    return _causal(block.dropout(x), block.conv2).add_(shortcut)


def _attention(x: Tensor, block: Any) -> Tensor:
    """One head over all positions of a frame."""
    height = x.shape[2]
    rows = rearrange(_norm(x, block.norm), "n c h w -> n 1 (h w) c")
    qkv = functional.linear(rows, block.to_qkv.weight.flatten(1), block.to_qkv.bias)
    q, k, v = qkv.chunk(3, dim=-1)
    out = functional.scaled_dot_product_attention(q, k, v)
    out = functional.linear(out, block.proj.weight.flatten(1), block.proj.bias)
    return x + rearrange(out, "n 1 (h w) c -> n c h w", h=height)


def _causal(x: Tensor, conv: nn.Conv3d) -> Tensor:
    return convolve(x, one_frame_kernel(conv.weight, "zeros"), conv.bias)


def _norm(x: Tensor, norm: Any) -> Tensor:
    """Every pixel over the root mean square of its channels; half precisions in fp32."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    length = wide.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
    normed: Tensor = (wide / length).to(x.dtype).mul_(norm.scale * norm.gamma.view(-1, 1, 1))
    return normed.add_(norm.bias.view(-1, 1, 1)) if isinstance(norm.bias, Tensor) else normed
