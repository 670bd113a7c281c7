"""Key names of Wan transformers: the authors' own files and diffusers' model.

Source:
    Wan (arXiv 2503.20314), the released files; diffusers' ``WanTransformer3DModel``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SHELL = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("img_emb.proj.0.", "condition_embedder.image_embedder.norm1."),
    ("img_emb.proj.1.", "condition_embedder.image_embedder.ff.net.0.proj."),
    ("img_emb.proj.3.", "condition_embedder.image_embedder.ff.net.2."),
    ("img_emb.proj.4.", "condition_embedder.image_embedder.norm2."),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
    ("patch_embedding.", "patch_embedding."),
)

# In the authors' files the affine norm before cross-attention is norm3; diffusers calls it norm2.
_BLOCK = (
    ("modulation", "scale_shift_table"),
    ("self_attn.q.", "attn1.to_q."),
    ("self_attn.k.", "attn1.to_k."),
    ("self_attn.v.", "attn1.to_v."),
    ("self_attn.o.", "attn1.to_out.0."),
    ("self_attn.norm_q.", "attn1.norm_q."),
    ("self_attn.norm_k.", "attn1.norm_k."),
    ("cross_attn.q.", "attn2.to_q."),
    ("cross_attn.k.", "attn2.to_k."),
    ("cross_attn.v.", "attn2.to_v."),
    ("cross_attn.o.", "attn2.to_out.0."),
    ("cross_attn.norm_q.", "attn2.norm_q."),
    ("cross_attn.norm_k.", "attn2.norm_k."),
    ("cross_attn.k_img.", "attn2.add_k_proj."),
    ("cross_attn.v_img.", "attn2.add_v_proj."),
    ("cross_attn.norm_k_img.", "attn2.norm_added_k."),
    ("norm3.", "norm2."),
    ("norm2.", "norm3."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
)

_BLOCK_KEY = re.compile(r"(blocks\.\d+\.)(.+)")


def to_diffusers(key: str) -> str:
    """Diffusers' name of a key of the authors' files; an unknown key stays as it is."""
    return _renamed(key, forward=True)


def to_original(key: str) -> str:
    """The authors' name of a diffusers key; an unknown key stays as it is."""
    return _renamed(key, forward=False)


def diffusers_names(keys: Iterable[str]) -> dict[str, str]:
    """``{key in the file: diffusers' name}`` for a file in either format.

    Args:
        keys: all keys of the file.
    """
    names = list(keys)
    if any(".self_attn." in name or name == "head.modulation" for name in names):
        return {name: to_diffusers(name) for name in names}
    return {name: name for name in names}


def _renamed(key: str, *, forward: bool) -> str:
    match = _BLOCK_KEY.fullmatch(key)
    if match:
        return match[1] + _substituted(match[2], _BLOCK, forward=forward)
    return _substituted(key, _SHELL, forward=forward)


def _substituted(key: str, pairs: Sequence[tuple[str, str]], *, forward: bool) -> str:
    for original, diffusers in pairs:
        old, new = (original, diffusers) if forward else (diffusers, original)
        if key.startswith(old):
            return new + key[len(old) :]
    return key
