"""From a memory plan to a model that follows it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from seqtex_backbones.codecs.protocol import Codec
from seqtex_core.inference import prepare_for_inference
from seqtex_core.transformer import SeqTexTransformer

from .config import ModelConfig
from .fill import empty_transformer
from .memory import MemoryPlan, plan_memory
from .memory_moves import Copy, Residence, outside_blocks, stream_blocks, tensors_of
from .memory_needs import memory_needs, set_codec_mode
from .run_sizes import RunSizes

_LARGE = 2**28
"""Bytes of weights from which a plan is made unasked; less fits anywhere."""


def plan_for(
    config: ModelConfig,
    dtype: torch.dtype,
    sizes: RunSizes,
    *,
    device: torch.device,
    budget: int | None = None,
    text: Path | None = None,
) -> MemoryPlan | None:
    """How a run holds its memory; ``None`` for small models without a budget.

    Args:
        config: of the model.
        dtype: of the transformer's weights.
        sizes: of the run; what is ``None`` is the config's.
        device: where the model works.
        budget: GiB, or ``None``: what is free on an accelerator, and nothing given up on the CPU.
        text: folder of the text encoder that will run, if one will.

    Raises:
        OutOfMemoryError: the run cannot be kept within the budget.
    """
    empty = empty_transformer(config, dtype=dtype)
    if budget is None and sum(p.numel() for p in empty.parameters()) * dtype.itemsize < _LARGE:
        return None
    text_bytes = 0 if text is None else _file_bytes(text / "text_encoder")
    needs = memory_needs(empty, config, sizes.of(config), text_bytes=text_bytes)
    if device.type == "cpu":
        return plan_memory(needs, place="cpu", budget=budget)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return plan_memory(needs, place="accelerator", budget=budget, free=free)


def settle(
    transformer: SeqTexTransformer,
    codec: Codec,
    plan: MemoryPlan | None,
    device: torch.device,
    *,
    copy: Copy | None = None,
) -> Residence:
    """Make a model ready to sample and put its parts where the plan wants them.

    Says which parts visit the device.

    Args:
        transformer: on the CPU.
        codec: on the CPU.
        plan: ``None`` puts everything on the device.
        device: where the model works.
        copy: replaces the copying, for tests.
    """
    measures = None if plan is None else plan.measures
    if measures is not None and measures.codec_mode != "float32":
        set_codec_mode(codec, measures.codec_mode)
    if measures is None or not measures.offload:
        prepare_for_inference(transformer.to(device))
        if isinstance(codec, nn.Module):
            codec.to(device)
        return Residence(device)
    prepare_for_inference(transformer)
    visitors = {"transformer": tensors_of(transformer)}
    if measures.stream_blocks:
        visitors["transformer"] = outside_blocks(transformer)
        stream_blocks(transformer, device, copy=copy)
    if isinstance(codec, nn.Module):
        visitors["codec"] = tensors_of(codec)
    return Residence(device, visitors, copy=copy)


def _file_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder as they are loaded, in bfloat16."""
    from seqtex_backbones.weight_source import find_weights
    from seqtex_core.weight_files import WeightFiles

    with WeightFiles(find_weights(folder).files) as opened:
        sizes = [torch.Size(shape).numel() for shape in opened.shapes.values()]
    return 2 * sum(sizes)
