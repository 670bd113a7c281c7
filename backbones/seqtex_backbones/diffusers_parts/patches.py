"""Latents to tokens and back: the patch embeddings of diffusers, without their positions."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.frames import Grid

LayerT = TypeVar("LayerT", bound=nn.Conv2d | nn.Conv3d | nn.Linear)


class ConvPatches(nn.Module):
    """Latents to tokens by a strided convolution.

    Args:
        conv: kernel and stride are the patch; a 2-D one goes frame by frame.
        extra_channels: channels that the model reads behind the latents and SeqTex has no use for;
            they get zeros.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, *, extra_channels: int = 0) -> None:
        super().__init__()
        self.conv = conv
        self.extra_channels = extra_channels

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        latents = _with_zeros(latents, self.extra_channels)
        if isinstance(self.conv, nn.Conv3d):
            tokens: Tensor = self.conv(latents).flatten(2).transpose(1, 2)
            return tokens.contiguous()
        frames = latents.transpose(1, 2)
        tokens = self.conv(frames.flatten(0, 1)).flatten(2).transpose(1, 2).contiguous()
        return tokens.view(frames.shape[0], -1, tokens.shape[-1])

    def of_latents(self) -> ConvPatches:
        """A copy that reads the latents alone."""
        channels = self.conv.in_channels - self.extra_channels
        narrow = _first_inputs(self.conv, channels)
        narrow.in_channels = channels
        return ConvPatches(narrow)


class LinearPatches(nn.Module):
    """Latents to tokens by a linear layer.

    Args:
        proj: reads vectors ``(C, pt, ph, pw)``, channels slowest.
        patch_size: rows and columns of a patch.
        frame_repeat: frames of a patch, all of which are the one that is given.
        extra_channels: see :class:`ConvPatches`.
    """

    def __init__(
        self, proj: nn.Linear, *, patch_size: int, frame_repeat: int = 1, extra_channels: int = 0
    ) -> None:
        super().__init__()
        self.proj = proj
        self.patch_size = patch_size
        self.frame_repeat = frame_repeat
        self.extra_channels = extra_channels

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        latents = _with_zeros(latents, self.extra_channels)
        patch = self.patch_size
        blocks = latents.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
        blocks = blocks.permute(0, 2, 3, 5, 1, 4, 6).unsqueeze(5)
        blocks = blocks.expand(-1, -1, -1, -1, -1, self.frame_repeat, -1, -1)
        tokens: Tensor = self.proj(blocks.flatten(4).flatten(1, 3))
        return tokens

    def of_latents(self) -> LinearPatches:
        """A copy that reads the latents alone."""
        per_channel = self.frame_repeat * self.patch_size**2
        inputs = self.proj.in_features - self.extra_channels * per_channel
        narrow = _first_inputs(self.proj, inputs)
        narrow.in_features = inputs
        return LinearPatches(narrow, patch_size=self.patch_size, frame_repeat=self.frame_repeat)


def join_patches(
    tokens: Tensor, grid: Grid, patch: tuple[int, int, int], *, channels: Literal["first", "last"]
) -> Tensor:
    """Latents ``[B, C, F, H, W]`` from a vector per token.

    Args:
        tokens: ``[B, L, pt * ph * pw * C]``, width fastest.
        grid: frames, rows and columns of tokens.
        patch: latent frames, rows and columns of a token.
        channels: where they stand in a vector: ``(C, pt, ph, pw)`` or ``(pt, ph, pw, C)``.
    """
    blocks: Tensor = tokens.unflatten(1, (grid.frames, grid.height, grid.width))
    if channels == "first":
        blocks = blocks.unflatten(-1, (-1, *patch)).permute(0, 4, 1, 5, 2, 6, 3, 7)
    else:
        blocks = blocks.unflatten(-1, (*patch, -1)).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _with_zeros(latents: Tensor, channels: int) -> Tensor:
    if not channels:
        return latents
    return functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, channels))


def _first_inputs(layer: LayerT, count: int) -> LayerT:
    """A copy of the layer with the weights of its first inputs."""
    copied = copy.deepcopy(layer)
    copied.weight = nn.Parameter(layer.weight.detach()[:, :count].clone())
    return copied
