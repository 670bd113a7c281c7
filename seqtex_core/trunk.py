"""The way of the residual streams through the blocks; a model's ``trunk`` may be another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from .branch_data import BranchInputs, BranchTimes, Hidden, StepCache
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
        """The residual streams after the last block; text rows may be left out."""
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
    for index, block in enumerate(model.muv_blocks()):
        if index and model.spec.repeats_position:
            hidden = hidden.placed(inputs)
        block_cache = cache.blocks[index] if cache.blocks else None
        arguments = (hidden, inputs, times, block_cache, model.attend)
        if model.gradient_checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(block, *arguments, use_reentrant=False)
        else:
            hidden = block(*arguments)
    return hidden
