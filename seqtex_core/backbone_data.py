"""What passes between a backbone and the library: its numbers, embedded levels, encoded text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from .errors import UsageError
from .frames import Grid
from .query_key import QKNorm, qk_prep


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What a backbone is, in numbers.

    Args:
        name: registry name of the adapter ("wan").
        dim: width of the residual stream.
        num_heads: attention heads.
        head_dim: channels per head.
        num_blocks: transformer blocks.
        latent_channels: channels of the latents that SeqTex feeds and reads.
        patch_size: latent frames, rows and columns per token.
        text_dim: width of the text encoder's output.
        text_length: text rows that the model was trained with.
        lora_targets: linear layers that get an adapter, as names inside a block; in a model with
            blocks of several kinds, each block adapts those that it has.
        image_dim: width of the image encoder's output that the model can read besides text, or
            ``None``.
        joint_text: text rows are attended together with the others and change from block to block
            (CogVideoX); otherwise they are the context of cross-attention (Wan).
        masks_text: the model was trained with the padding rows of text hidden (LTX-Video);
            otherwise it was trained to read them (Wan).
        pooled_dim: width of the summary of the text that the model reads beside the rows, or
            ``None``.
        repeats_position: position embeddings are added before every block (Cosmos with learned
            positions), not only before the first one.
    """

    name: str
    dim: int
    num_heads: int
    head_dim: int
    num_blocks: int
    latent_channels: int
    patch_size: tuple[int, int, int]
    text_dim: int
    text_length: int
    lora_targets: tuple[str, ...]
    image_dim: int | None = None
    joint_text: bool = False
    masks_text: bool = False
    pooled_dim: int | None = None
    repeats_position: bool = False

    @property
    def inner_dim(self) -> int:
        """Width of queries and keys, all heads together."""
        return self.num_heads * self.head_dim

    def grid(self, name: str, size: tuple[int, int, int]) -> Grid:
        """Token grid of latents with ``size`` frames, rows and columns.

        Raises:
            UsageError: not three whole numbers, or one that is not a multiple of the patch.
        """
        if len(size) != 3 or not all(isinstance(number, int) for number in size):
            raise UsageError(
                f"latent size of {name!r}", expected="latent (frames, rows, columns)", got=str(size)
            )
        if any(s % p or s < p for s, p in zip(size, self.patch_size, strict=True)):
            raise UsageError(
                f"latent size of {name!r}",
                expected=f"multiples of the patch {self.patch_size}",
                got=str(size),
            )
        frames, height, width = (s // p for s, p in zip(size, self.patch_size, strict=True))
        return Grid(frames=frames, height=height, width=width)

    def latent_size(self, grid: Grid) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token grid."""
        frames, height, width = self.patch_size
        return grid.frames * frames, grid.height * height, grid.width * width


@dataclass(frozen=True, kw_only=True)
class TimeEmbedding:
    """Noise levels as a backbone sees them, one row per frame.

    Args:
        embedding: what the head modulates with, ``[B, F, E]``.
        projected: what the blocks modulate with; a backbone's own shape, ``[B, F, ...]``.
    """

    embedding: Tensor
    projected: Tensor


@dataclass(frozen=True, kw_only=True)
class TextContext:
    """Encoded conditions; constant over the sampling steps.

    Args:
        text: what cross-attention reads, or what ``BackboneShell.initial_text`` makes the text
            rows of a joint model from, ``[B, S, ...]``.
        image: image tokens of image-to-video models, ``[B, S', D]``, or ``None``.
        mask: which text rows may be read, boolean ``[B, S]``; ``None`` for all of them.
        pooled: what the text adds to the embedding of every noise level, ``[B, E]``, or ``None``.
    """

    text: Tensor
    image: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None

    @property
    def key_mask(self) -> Tensor | None:
        """``mask`` as attention to the text takes it, ``[B, 1, 1, S]``, or ``None``."""
        return None if self.mask is None else self.mask[:, None, None]


@dataclass(frozen=True, kw_only=True)
class KeyValue:
    """Keys (normalised) and values of a context.

    Args:
        key: ``[B, S, N, D]``.
        value: ``[B, S, N, D]``.
        mask: which rows may be read, boolean ``[B, 1, 1, S]``, or ``None``.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        key: Tensor,
        value: Tensor,
        norm: QKNorm | None,
        *,
        num_heads: int,
        mask: Tensor | None = None,
    ) -> Self:
        """From projections ``[B, S, N*D]``, keys not yet normalised."""
        return cls(
            key=qk_prep(key, norm, num_heads=num_heads),
            value=value.unflatten(-1, (num_heads, -1)),
            mask=mask,
        )
