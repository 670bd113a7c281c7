"""LoRA files: the mv branch's adapters in the format that peft and diffusers read and write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import UsageError, WeightsError
from .lora import copy_weights, lora_layers, lora_state_dict
from .transformer import SeqTexTransformer
from .weight_files import WeightFiles, write_tensors

METADATA_KEY = "lora_adapter_metadata"


def mv_lora_state_dict(
    transformer: SeqTexTransformer, *, prefix: str = "transformer."
) -> dict[str, Tensor]:
    """Adapter weights under the original model's layer names, as peft exports them.

    Args:
        transformer: with adapters (``mv_train="lora"``).
        prefix: put before every name; ``"transformer."`` is what diffusers' pipelines read.

    Returns:
        ``{prefix}{layer}.lora_A.weight`` and ``.lora_B.weight``; the model's own tensors.

    Raises:
        UsageError: there are no adapters.
    """
    blocks = [lora_state_dict(block.mv) for block in transformer.muv_blocks()]
    named = transformer.backbone.original_keys({}, blocks)
    if not named:
        raise UsageError("LoRA", expected="a model with adapters", got="mv_train='full'")
    return {f"{prefix}{name}": tensor for name, tensor in named.items()}


def load_mv_lora_state_dict(
    transformer: SeqTexTransformer, state: Mapping[str, Tensor], *, prefix: str = "transformer."
) -> None:
    """Load adapter weights by ``mv_lora_state_dict`` or by peft, in place.

    The scale (alpha / rank) is not part of the weights; the transformer's own stays.

    Raises:
        WeightsError: other layers, or another rank.
        UsageError: adapters that are merged, or none.
    """
    wanted = mv_lora_state_dict(transformer, prefix=prefix)
    for block in transformer.muv_blocks():
        if any(layer.is_merged for _, layer in lora_layers(block.mv)):
            raise UsageError("LoRA weights", expected="unmerged adapters", got="merged ones")
    copy_weights("LoRA weights", wanted, state)


def save_mv_lora(
    transformer: SeqTexTransformer, path: Path | str, *, prefix: str = "transformer."
) -> None:
    """Write the adapters, with rank and alpha in the header, as diffusers does.

    Args:
        transformer: with adapters.
        path: a ``.safetensors`` file; replaced in one step if it exists.
        prefix: see ``mv_lora_state_dict``.
    """
    write_tensors(
        Path(path),
        mv_lora_state_dict(transformer, prefix=prefix),
        metadata=lora_metadata(transformer, prefix=prefix),
    )


def lora_metadata(
    transformer: SeqTexTransformer, *, prefix: str = "transformer."
) -> dict[str, str]:
    """Rank, alpha and layers of the adapters, as diffusers writes them into a file's header."""
    config = transformer.config
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "target_modules": _layers(transformer),
        "bias": "none",
    }
    told = {f"{prefix}{name}": value for name, value in settings.items()}
    return {METADATA_KEY: json.dumps(told, sort_keys=True)}


def _layers(transformer: SeqTexTransformer) -> list[str]:
    """Full names of the adapted layers: the ends of names may belong to other layers, too."""
    names = mv_lora_state_dict(transformer, prefix="")
    return sorted({name.rpartition(".lora_")[0] for name in names})


def load_mv_lora(
    transformer: SeqTexTransformer, path: Path | str, *, prefix: str = "transformer."
) -> None:
    """Load adapters from a file by ``save_mv_lora``, peft or diffusers, in place.

    Raises:
        WeightsError: not a readable safetensors file, other layers or rank, or a header with
            another scale (alpha / rank) than the transformer's.
    """
    with WeightFiles([Path(path)]) as files:
        _check_scale(transformer, str(path), files.metadata.get(METADATA_KEY), prefix)
        state = {name: files.read(name) for name in files}
    load_mv_lora_state_dict(transformer, state, prefix=prefix)


def _check_scale(
    transformer: SeqTexTransformer, path: str, header: str | None, prefix: str
) -> None:
    if header is None:
        return
    told = json.loads(header)
    rank, alpha = told.get(f"{prefix}r"), told.get(f"{prefix}lora_alpha")
    config = transformer.config
    if rank and alpha is not None and alpha / rank != config.lora_alpha / config.lora_rank:
        raise WeightsError(
            f"LoRA weights in {path}",
            expected=f"alpha {config.lora_alpha} for rank {config.lora_rank}",
            got=f"alpha {alpha} for rank {rank}",
            remedy="Build the model with the lora_rank and lora_alpha of the file.",
        )
