"""Key names of the released SeqTex transformer, and those of ``SeqTexTransformer`` on Wan.

The released file holds the base weights with LoRA apart (peft's ``base_layer``), the UV branch as
extra parts of every block, and the geometry embeddings; nothing twice.

Source:
    SeqTex (arXiv 2507.04285), the released transformer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .wan.block import LORA_TARGETS

_SHELL = (
    ("geometry.position.conv.", "pos_patch_embedding."),
    ("geometry.normal.conv.", "norm_patch_embedding."),
    ("shells.mv.patch_embedding.conv.", "patch_embedding."),
    ("shells.uv.scale_shift_table", "scale_shift_table_uv"),
    ("shells.mv.", ""),
)
_BLOCK = (
    ("uv.scale_shift_table", "scale_shift_table_uv"),
    ("uv.attn1.", "attnuv."),
    ("uv.norm2.", "normuv2."),
    ("uv.ffn.", "ffnuv."),
    ("mv.", ""),
)
_BLOCK_NAME = re.compile(r"(blocks\.\d+\.)(.+)")


def released_name(name: str) -> str:
    """The released key of a weight of ``SeqTexTransformer``.

    Args:
        name: as in ``seqtex_core.checkpoint.unique_tensors``.
    """
    match = _BLOCK_NAME.fullmatch(name)
    if match:
        return match[1] + _adapted(_substituted(match[2], _BLOCK), is_mv=match[2].startswith("mv."))
    return _substituted(name, _SHELL)


def released_names(names: Iterable[str]) -> dict[str, str]:
    """``{name of ours: released key}``."""
    return {name: released_name(name) for name in names}


def _adapted(key: str, *, is_mv: bool) -> str:
    """As peft names it: own weights below ``base_layer``, adapters called "default"."""
    layer, _, leaf = key.rpartition(".")
    parent, _, kind = layer.rpartition(".")
    if not is_mv:
        return key
    if kind in ("lora_A", "lora_B") and parent in LORA_TARGETS:
        return f"{layer}.default.{leaf}"
    return f"{layer}.base_layer.{leaf}" if layer in LORA_TARGETS else key


def _substituted(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for ours, theirs in pairs:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name
