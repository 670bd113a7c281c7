"""Text rows that are attended together with the tokens: one frame without position and geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from .adapter import BackboneBlock, RowSublayers, TimeEmbedding
from .frames import StreamLayout
from .query_key import QKNorm, qk_prep


def text_sigma(sigma: Tensor, rows: StreamLayout) -> Tensor:
    """The noise level that text rows are modulated with, ``[B, 1]``: the highest of the frames.

    Joint models know one level for text and video; here every frame has its own. In every
    built-in task the frames being denoised are the noisiest of their stream (conditions lie at
    0.07, nonsense frames have a stream to themselves), so that text is modulated with their level,
    as in the pretrained model; where all frames are conditions, with theirs. A plan of one's own
    with a nonsense frame beside denoised ones would pull the text up to level 1.

    Args:
        sigma: levels of a stream's frames, ``[B, F]``.
        rows: the stream; frames without a token do not count, in samples packed one after the
            other each for itself.
    """
    frames = sigma.shape[1]
    tables = [rows.frame_lengths[at : at + frames] for at in range(0, rows.num_frames, frames)]
    present = [[frame for frame, length in enumerate(lengths) if length] for lengths in tables]
    if len(present) == 1:
        return sigma[:, present[0]].amax(dim=1, keepdim=True)
    levels = [sigma[row, shown].amax() for row, shown in enumerate(present)]
    return torch.stack(levels)[:, None]


def text_layout(length: int) -> StreamLayout:
    """The layout of ``length`` text rows: one frame of no group."""
    return StreamLayout(groups=(), frame_lengths=(length,), group_lengths=())


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRows:
    """Text rows inside one block, on their way through attention.

    Args:
        sublayers: what the block does to them.
        hidden_states: before the block, ``[B, S, D]``.
        normed: what queries, keys and values are made of, ``[B, S, D]``.
        modulation: the block's own.
        rows: their layout.
        mask: which of them may be read, boolean ``[B, S]``, or ``None`` for all.
    """

    sublayers: RowSublayers
    hidden_states: Tensor
    normed: Tensor
    modulation: Any
    rows: StreamLayout
    mask: Tensor | None = None

    @classmethod
    def before(
        cls,
        block: BackboneBlock,
        text: Tensor | None,
        time: TimeEmbedding | None,
        *,
        mask: Tensor | None = None,
        normalised: bool = True,
    ) -> Self | None:
        """The rows ready for attention; ``None`` if the model has no text rows.

        Args:
            block: whose weights and norm are used.
            text: ``[B, S, D]``, or ``None``.
            time: their noise level.
            mask: which rows may be read, boolean ``[B, S]``; ``None`` for all.
            normalised: without it, ``text`` is projected as it is.
        """
        sublayers = block.text_rows()
        if sublayers is None or text is None:
            return None
        assert time is not None
        rows = text_layout(text.shape[1])
        modulation = sublayers.modulation(time)
        normed = sublayers.pre_attention(text, modulation, rows) if normalised else text
        return cls(
            sublayers=sublayers,
            hidden_states=text,
            normed=normed,
            modulation=modulation,
            rows=rows,
            mask=mask,
        )

    def query(self) -> Tensor:
        """Normalised queries, ``[B, S, N, D]``."""
        sublayers = self.sublayers
        projected = sublayers.query(self.normed)
        return qk_prep(projected, sublayers.q_norm, num_heads=sublayers.num_heads)

    def key_value(self) -> tuple[Tensor, Tensor]:
        """Normalised keys, and values, each ``[B, S, N, D]``."""
        sublayers = self.sublayers
        key, value = sublayers.key_value(self.normed)
        key = qk_prep(key, sublayers.k_norm, num_heads=sublayers.num_heads)
        return key, value.unflatten(-1, (sublayers.num_heads, -1))

    def key_mask(self, num_keys: int) -> Tensor | None:
        """Which keys, text first, may be read: ``[B, 1, 1, num_keys]``, or ``None``."""
        if self.mask is None:
            return None
        rest = num_keys - self.mask.shape[1]
        return functional.pad(self.mask, (0, rest), value=True)[:, None, None]

    def key_masks(self, num_keys: Sequence[int]) -> list[Tensor] | None:
        """The same of each sample, with its own number of keys."""
        if self.mask is None:
            return None
        text = self.mask.shape[1]
        return [
            functional.pad(mask, (0, count - text), value=True)[:, None, None]
            for mask, count in zip(self.mask.split(1), num_keys, strict=True)
        ]

    def attended(self, out: Tensor) -> Tensor:
        """The rows after attention, ``[B, S, D]``, from what it gave for them, ``[B, S, N, D]``."""
        return self.sublayers.post_attention(
            self.hidden_states, out, self.normed, self.modulation, self.rows
        )


class SharedTextRows(RowSublayers):
    """Text rows that pass through the sublayers of the video rows, modulated in their own way.

    Args:
        block: whose sublayers they are.
        modulation: shifts, scales and gates of text rows, as ``block`` itself understands them.
    """

    def __init__(self, block: BackboneBlock, modulation: Callable[[TimeEmbedding], Any]) -> None:
        self.block = block
        self.num_heads = block.num_heads
        self._modulation = modulation

    @property
    def q_norm(self) -> QKNorm | None:
        """The block's."""
        return self.block.q_norm

    @property
    def k_norm(self) -> QKNorm | None:
        """The block's."""
        return self.block.k_norm

    def modulation(self, time: TimeEmbedding) -> Any:
        """That of text rows."""
        return self._modulation(time)

    def pre_attention(self, hidden_states: Tensor, modulation: Any, rows: StreamLayout) -> Tensor:
        """The block's."""
        return self.block.pre_attention(hidden_states, modulation, rows)

    def query(self, normed: Tensor) -> Tensor:
        """The block's."""
        return self.block.query(normed)

    def key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """The block's."""
        return self.block.key_value(normed)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: Any,
        rows: StreamLayout,
    ) -> Tensor:
        """The block's."""
        return self.block.post_attention(hidden_states, attended, normed, modulation, rows)

    def feed_forward(self, hidden_states: Tensor, modulation: Any, rows: StreamLayout) -> Tensor:
        """The block's."""
        return self.block.feed_forward(hidden_states, modulation, rows)
