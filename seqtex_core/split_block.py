"""Blocks whose sublayers are known apart from the norms before and the sums behind them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from .adapter import BackboneBlock, RowSublayers
from .attention import Attend
from .backbone_data import KeyValue, TimeEmbedding
from .frames import StreamLayout
from .modulation import RowNorm, gated_residual, normed_rows, residual_norm


class Sublayer(NamedTuple):
    """What surrounds one sublayer of a residual stream.

    Attributes:
        norm: in front of it; ``None`` for a sublayer that reads the stream as it is.
        gate: what its update is multiplied with, ``[B, F, D]`` in fp32, or ``None`` for 1.
    """

    norm: RowNorm | None
    gate: Tensor | None = None


class Sublayers(NamedTuple):
    """What surrounds the sublayers of a block.

    Attributes:
        attention: the first.
        feed_forward: the last.
        cross: between them, in a model with cross-attention.
    """

    attention: Sublayer
    feed_forward: Sublayer
    cross: Sublayer | None = None


class SplitRows(RowSublayers):
    """``x + gate * update(norm(x))`` for attention and for the feed-forward.

    Says what a sublayer computes between norm and sum; its ``modulation`` is all that surrounds
    the sublayers.
    """

    @abstractmethod
    def modulation(self, time: TimeEmbedding) -> Sublayers:
        """Norms and gates of all sublayers at the frames' noise levels."""

    @abstractmethod
    def attention_update(self, attended: Tensor) -> Tensor:
        """What self-attention adds, ``[B, L, D]``, from what it gives, ``[B, L, N, D]``."""

    @abstractmethod
    def feed_forward_update(self, normed: Tensor) -> Tensor:
        """What the feed-forward sublayer adds, ``[B, L, D]``."""

    def pre_attention(
        self, hidden_states: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        """See ``RowSublayers``."""
        return read_by(modulation.attention, hidden_states, rows)

    def post_attention(
        self,
        hidden_states: Tensor,
        attended: Tensor,
        normed: Tensor,
        modulation: Sublayers,
        rows: StreamLayout,
    ) -> Tensor:
        """See ``RowSublayers``."""
        del normed
        update = self.attention_update(attended)
        return summed(hidden_states, update, modulation.attention.gate, rows)

    def feed_forward(
        self, hidden_states: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        """See ``RowSublayers``."""
        update = self.feed_forward_update(read_by(modulation.feed_forward, hidden_states, rows))
        return summed(hidden_states, update, modulation.feed_forward.gate, rows)


class SplitBlock(SplitRows, BackboneBlock):
    """A block of such sublayers, so that a sum and the norm after it are one pass over memory."""

    def after_sum(
        self,
        hidden_states: Tensor,
        normed: Tensor,
        modulation: Sublayers,
        rows: StreamLayout,
        key_values: tuple[KeyValue, ...],
        attend: Attend,
    ) -> Tensor:
        """The stream after the sublayers behind self-attention.

        Args:
            hidden_states: after self-attention.
            normed: input of the next sublayer, see :func:`after_attention`.
            modulation: the block's own.
            rows: which row belongs to which frame.
            key_values: of the context, for cross-attention.
            attend: likewise.
        """
        del key_values, attend
        return self._last(hidden_states, normed, modulation, rows)

    def _last(
        self, hidden_states: Tensor, normed: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        update = self.feed_forward_update(normed)
        return summed(hidden_states, update, modulation.feed_forward.gate, rows)


class SplitCrossBlock(SplitBlock):
    """One with cross-attention, which rows of both branches may pass through together."""

    @abstractmethod
    def cross_update(
        self, normed: Tensor, key_values: tuple[KeyValue, ...], attend: Attend
    ) -> Tensor:
        """What cross-attention adds, ``[B, L, D]``, by modules of ``"cross_attn"`` alone."""

    def cross_attention(
        self,
        hidden_states: Tensor,
        key_values: tuple[KeyValue, ...],
        modulation: Sublayers,
        rows: StreamLayout,
        attend: Attend,
    ) -> Tensor:
        """See ``BackboneBlock``."""
        cross = _second(modulation)
        normed = read_by(cross, hidden_states, rows)
        update = self.cross_update(normed, key_values, attend)
        return summed(hidden_states, update, cross.gate, rows)

    def after_sum(
        self,
        hidden_states: Tensor,
        normed: Tensor,
        modulation: Sublayers,
        rows: StreamLayout,
        key_values: tuple[KeyValue, ...],
        attend: Attend,
    ) -> Tensor:
        """See ``SplitBlock``."""
        update = self.cross_update(normed, key_values, attend)
        return self.after_cross(hidden_states, update, modulation, rows)

    def after_cross(
        self, hidden_states: Tensor, update: Tensor, modulation: Sublayers, rows: StreamLayout
    ) -> Tensor:
        """``hidden_states`` with what cross-attention adds, after the feed-forward sublayer."""
        gate, after = _second(modulation).gate, modulation.feed_forward
        x, normed = summed_and_read(hidden_states, update, gate, after, rows)
        return self._last(x, normed, modulation, rows)


def summed(
    hidden_states: Tensor, update: Tensor, gate: Tensor | None, rows: StreamLayout
) -> Tensor:
    """The residual stream with a sublayer's update."""
    if gate is None:
        return hidden_states + update
    return gated_residual(hidden_states, update, gate, rows)


def read_by(
    sublayer: Sublayer, hidden_states: Tensor, rows: StreamLayout, *, place: Tensor | None = None
) -> Tensor:
    """What a sublayer reads of the stream, ``[B, L, D]``, in its ``place`` if there is one."""
    if sublayer.norm is not None:
        return normed_rows(hidden_states, sublayer.norm, rows, out=place)
    return hidden_states if place is None else place.copy_(hidden_states)


def summed_and_read(
    hidden_states: Tensor,
    update: Tensor,
    gate: Tensor | None,
    after: Sublayer,
    rows: StreamLayout,
    *,
    place: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The stream with a sublayer's update, and what the one after it reads of that."""
    if after.norm is not None:
        return residual_norm(hidden_states, update, rows, gate=gate, norm=after.norm, out=place)
    total = summed(hidden_states, update, gate, rows)
    return total, read_by(after, total, rows, place=place)


def before_attention(
    block: BackboneBlock,
    hidden_states: Tensor,
    modulation: Any,
    rows: StreamLayout,
    *,
    place: Tensor | None,
) -> Tensor:
    """Normalised and modulated rows of any block; those of a ``SplitBlock`` in their ``place``."""
    if isinstance(block, SplitBlock):
        return read_by(modulation.attention, hidden_states, rows, place=place)
    return block.pre_attention(hidden_states, modulation, rows)


def after_attention(
    block: BackboneBlock,
    hidden_states: Tensor,
    attended: Tensor,
    normed: Tensor,
    modulation: Any,
    rows: StreamLayout,
    *,
    place: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """The stream after self-attention, and in a ``SplitBlock`` the input of the next sublayer.

    Args:
        block: of any kind.
        hidden_states: the stream before it.
        attended: what attention gives.
        normed: what ``before_attention`` gave.
        modulation: the block's own.
        rows: which row belongs to which frame.
        place: where to write the second, or ``None``.
    """
    if not isinstance(block, SplitBlock):
        return block.post_attention(hidden_states, attended, normed, modulation, rows), None
    update, gate = block.attention_update(attended), modulation.attention.gate
    after = _second(modulation)
    return summed_and_read(hidden_states, update, gate, after, rows, place=place)


def _second(modulation: Sublayers) -> Sublayer:
    """What surrounds the sublayer behind self-attention."""
    return modulation.feed_forward if modulation.cross is None else modulation.cross
