"""What passes through the blocks of both branches, and what they read beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .adapter import KeyValue, TextContext, TimeEmbedding
from .copy_places import Copies
from .frames import Stream, StreamLayout
from .packed_layout import AnyLayout
from .rope import Rope

WeightVersions = tuple[tuple[int, torch.dtype], ...]
"""How often each of some weights was written to, and its dtype."""


class Hidden(NamedTuple):
    """The residual streams.

    Attributes:
        mv: ``[B, L_mv, D]``.
        uv: ``[B, L_uv, D]``, or ``None`` where the branch is skipped.
        text: text rows ``[B, S, ...]`` of joint models, which belong to the mv branch and may have
            a width of their own; or ``None``.
        copied: clean latents of a copy head's target, ``[B, C, F, H, W]``, from a trunk that has
            them already; ``None`` to let the head find them.
    """

    mv: Tensor
    uv: Tensor | None = None
    text: Tensor | None = None
    copied: Tensor | None = None

    def placed(self, inputs: Mapping[Stream, BranchInputs]) -> Hidden:
        """With the position embeddings of both streams added, where there are any."""
        mv, uv = inputs["mv"].position, inputs["uv"].position if "uv" in inputs else None
        return self._replace(
            mv=self.mv if mv is None else self.mv + mv,
            uv=self.uv if self.uv is None or uv is None else self.uv + uv,
        )


@dataclass(frozen=True, kw_only=True)
class BranchInputs:
    """What one branch of every block reads besides its residual stream and noise levels.

    Args:
        rows: token rows of the stream.
        context: text context.
        rope: rotary table of the stream, or ``None``.
        position: position embedding ``[L, D]`` that is added before the first block, or ``None``.
        geometry_tokens: embedded geometry for attention, ``[B, L, D]``, or ``None`` without it.
        geometry_input: embedded geometry that is added before the first block instead, or ``None``.
        key_rope: of the uv stream: the rotary tables of mv rows and uv rows as one, so that keys of
            both are made at once; ``None`` without RoPE, or where samples are packed.
    """

    rows: StreamLayout
    context: TextContext
    rope: Rope | None = None
    position: Tensor | None = None
    geometry_tokens: Tensor | None = None
    geometry_input: Tensor | None = None
    key_rope: Rope | None = None


class BlockModulations(NamedTuple):
    """Shifts, scales and gates of one block: whatever its ``modulation`` makes of the levels.

    Attributes:
        mv: of the mv stream.
        uv: of the uv stream.
        mv_as_keys: of the mv rows as keys and values of the uv branch, if they are normalised anew.
    """

    mv: Any = None
    uv: Any = None
    mv_as_keys: Any = None


@dataclass(frozen=True, kw_only=True)
class BranchTimes:
    """Noise levels of one step, embedded.

    Args:
        mv: of the mv frames, by the mv branch's shell.
        uv: of the uv frames, by the uv branch's shell; ``None`` when the branch is skipped.
        mv_as_keys: of the mv frames, by the uv branch's shell; ``None`` when it is skipped.
        text: of the text rows of a joint model, by the mv branch's shell.
        text_as_keys: of the text rows as the uv branch reads them, by its shell.
        levels: the levels themselves by stream, ``[B, F]``, or ``None`` where nobody asks for them.
        modulations: of the block at hand, where those of all blocks were made at once.
    """

    mv: TimeEmbedding
    uv: TimeEmbedding | None = None
    mv_as_keys: TimeEmbedding | None = None
    text: TimeEmbedding | None = None
    text_as_keys: TimeEmbedding | None = None
    levels: Mapping[Stream, Tensor] | None = None
    modulations: BlockModulations | None = None


@dataclass(frozen=True, kw_only=True)
class BlockCache:
    """What a block needs in every step and is the same in every step; keyed by stream.

    Args:
        geometry: ``c_geo`` ready to be added after RoPE, ``[B, L, N, D]``.
        cross: context keys and values.
        key_geometry: ``geometry`` of mv rows and uv rows as one, or ``None`` without it.
    """

    geometry: Mapping[Stream, Tensor]
    cross: Mapping[Stream, tuple[KeyValue, ...]]
    key_geometry: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class StepCache:
    """All that stays the same over the sampling steps of one object and prompt; no features.

    Args:
        layout: the token layout that it was built for.
        branches: positions, embedded geometry and text context per stream.
        blocks: per block, cast geometry and context keys; ``None`` while training, where each
            block recomputes them under its own checkpoint.
        with_gradients: whether weights can learn through it.
        versions: of the weights that it was made with, or ``None`` where they are not counted.
        copies: what a copy head reads; ``None`` without one, or without the uv stream.
    """

    layout: AnyLayout
    branches: Mapping[Stream, BranchInputs]
    blocks: tuple[BlockCache, ...] | None
    with_gradients: bool
    versions: WeightVersions | None = None
    copies: Copies | None = None
