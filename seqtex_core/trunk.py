"""The way of the residual streams through the blocks; a model's ``trunk`` may be another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from .branch_data import BlockModulations, BranchInputs, BranchTimes, Hidden, StepCache
from .frames import Stream

if TYPE_CHECKING:
    from .transformer import SeqTexTransformer


class Trunk(Protocol):
    """``(model, hidden, inputs, times, cache) -> hidden``, see :func:`run_blocks`."""

    def __call__(
        self,
        model: SeqTexTransformer,
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: StepCache,
        /,
    ) -> Hidden:
        """The residual streams after the last block; text rows may be left out.

        What a copy head finds may come with them.
        """
        ...


def run_blocks(
    model: SeqTexTransformer,
    hidden: Hidden,
    inputs: Mapping[Stream, BranchInputs],
    times: BranchTimes,
    cache: StepCache,
) -> Hidden:
    """The residual streams after the last block, computed here and block by block.

    Args:
        model: whose blocks they are.
        hidden: the streams before the first block; without ``uv`` that branch is skipped.
        inputs: of the streams that are present.
        times: embedded noise levels.
        cache: of the object and prompt.
    """
    made = _modulations(model, times)
    for index, block in enumerate(model.muv_blocks()):
        if index and model.spec.repeats_position:
            hidden = hidden.placed(inputs)
        block_cache = cache.blocks[index] if cache.blocks else None
        own = times if made is None else replace(times, modulations=made[index])
        arguments = (hidden, inputs, own, block_cache, model.attend)
        if model.gradient_checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(block, *arguments, use_reentrant=False)
        else:
            hidden = block(*arguments)
    return hidden


def _modulations(model: SeqTexTransformer, times: BranchTimes) -> list[BlockModulations] | None:
    """Shifts, scales and gates of all blocks, made at once; ``None`` where each makes its own."""
    if torch.is_grad_enabled():
        return None
    pairs = list(model.muv_blocks())
    keys = None if pairs[0].uv_key_source == "raw_post_attn" else times.mv_as_keys
    found: list[Sequence[Any]] = []
    for blocks, time in (
        ([pair.mv for pair in pairs], times.mv),
        ([pair.uv for pair in pairs], times.uv),
        ([pair.uv for pair in pairs], keys),
    ):
        values = [None] * len(pairs) if time is None else type(blocks[0]).modulations(blocks, time)
        if values is None:
            return None
        found.append(values)
    return [BlockModulations(*values) for values in zip(*found, strict=True)]
