"""A fresh UV branch in the middle of a run, after a stage that trained the MV branch alone."""

from __future__ import annotations

import torch

from seqtex_core.lora import merged_state_dict
from seqtex_core.transformer import SeqTexTransformer


@torch.no_grad()
def restart_uv(transformer: SeqTexTransformer) -> None:
    """Make the UV branch a copy of the MV branch as it is now, adapters merged in.

    After a pretraining of the MV branch alone, as the paper copies a pretrained backbone. Parts
    that the branches share stay as they are.

    Args:
        transformer: changed in place.
    """
    pairs = [(block.mv, block.uv) for block in transformer.muv_blocks()]
    for mv, uv in [(transformer.shells["mv"], transformer.shells["uv"]), *pairs]:
        source = merged_state_dict(mv)
        for name, tensor in uv.state_dict().items():
            if name in source and source[name].data_ptr() != tensor.data_ptr():
                tensor.copy_(source[name])
