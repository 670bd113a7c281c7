"""Useful FLOP of a model's steps on one object, from the very tokens that its cache keeps."""

from __future__ import annotations

from collections.abc import Mapping

from seqtex.models.load import SeqTexModel
from seqtex_core.copy_head import PATTERN, CopyConfig
from seqtex_core.frames import TokenLayout
from seqtex_core.transformer import StepCache

from .formulas import LayerSize, layer_flop
from .result import Work

_JUDGED, _EVIDENCE = 64, 5
"""Known points that a copy head is judged on, and numbers per head beside what it copies."""


def denoise_work(model: SeqTexModel, cache: StepCache, steps: int) -> Work:
    """Useful FLOP of the model calls of one texture.

    Args:
        model: of the Wan architecture, with a uv branch.
        cache: what the calls read: tokens that it leaves out are embedded and no more.
        steps: calls.
    """
    config, spec, layout = model.config, model.transformer.spec, cache.layout
    assert isinstance(layout, TokenLayout)
    kept = {name: rows.num_tokens for name, rows in layout.streams.items()}
    sizes = config.backbone["config"]
    layer = LayerSize(
        dim=spec.dim,
        ffn_dim=int(sizes["ffn_dim"]),
        num_mv=kept["mv"],
        num_uv=kept["uv"],
        num_text=spec.text_length,
    )
    flop = spec.num_blocks * sum(layer_flop(layer).values())
    patch = 2 * spec.latent_channels * spec.dim
    for side in spec.patch_size:
        patch *= side
    flop += patch * (sum(group.grid.num_tokens for group in layout.groups) + sum(kept.values()))
    freq_dim, frames = int(sizes["freq_dim"]), sum(group.grid.frames for group in layout.groups)
    flop += 2 * frames * (freq_dim * spec.dim + 7 * spec.dim * spec.dim)
    formula = "layers x layer_flop of the tokens that are kept, patches, times"
    if cache.copies is not None:
        assert config.decoupled.copy is not None
        channels = spec.latent_channels
        for place in cache.copies.places:
            tokens = {"asked": len(place.target_rows), "known": len(place.source_rows)}
            parts = copy_head_flop(
                **tokens, dim=spec.dim, channels=channels, config=config.decoupled.copy
            )
            flop += sum(parts.values())
        formula += ", copy_head_flop"
    return Work(flop=float(steps * flop), flop_formula=f"{steps} x ({formula})")


def copy_head_flop(
    asked: int, known: int, *, dim: int, channels: int, config: CopyConfig
) -> Mapping[str, int]:
    """FLOP of a copy head's matrix products by component; none where nothing is asked or known.

    Args:
        asked: tokens to find.
        known: tokens that are known.
        dim: width of the transformer's rows.
        channels: of the latents.
        config: heads and their width.
    """
    if not asked or not known:
        return {}
    heads, content, judged = config.heads, config.content, min(_JUDGED, known)
    width = PATTERN + 1 + content
    features = dim + channels + PATTERN + heads * (channels + _EVIDENCE)
    return {
        "scales": 2 * 2 * dim * heads * PATTERN,
        "queries and keys": 2 * (asked + judged + known) * dim * heads * content,
        "logits": 2 * heads * (asked + judged) * known * width,
        "values": 2 * heads * known * (asked * (2 * channels + PATTERN) + judged * channels),
        "gate": 2 * asked * dim * (features + heads + 1),
        "sum": 2 * asked * heads * channels,
    }
