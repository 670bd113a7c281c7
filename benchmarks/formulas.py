"""The useful work of every benchmark: FLOP (a multiply-add is two) and least traffic in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .result import Work

FULL_SIZE_REFERENCE_GFLOP = 1134.9
"""Per layer of the released inference code, counted by PyTorch's FlopCounterMode."""


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """Sizes of one MUV layer; the defaults are Wan2.1 1.3B with 512 px views, a 1024 texture.

    Args:
        dim: width of the residual stream, and of all heads together.
        ffn_dim: inner width of the feed-forward network.
        num_mv: tokens of all views.
        num_uv: tokens of the texture.
        num_text: text rows.
        lora_rank: inner width of the adapters of the mv branch.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    num_mv: int = 4096
    num_uv: int = 4096
    num_text: int = 512
    lora_rank: int = 128


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """What a layer computes in every step.

    Args:
        lora_merged: adapters are folded into the weights.
        geometry_cached: the geometry projections are computed once per object, not per step.
        text_cached: the text's keys and values likewise.
        with_uv: the UV branch runs.
    """

    lora_merged: bool = True
    geometry_cached: bool = True
    text_cached: bool = True
    with_uv: bool = True


USEFUL = LayerOptions()
AS_RELEASED = LayerOptions(lora_merged=False, geometry_cached=False, text_cached=False)


def branch_flop(n: int, num_keys: int, size: LayerSize) -> dict[str, int]:
    """FLOP of one branch's queries: attention over ``num_keys``, cross-attention, feed-forward."""
    d, f = size.dim, size.ffn_dim
    return {
        "self out": 2 * n * d * d,
        "self attention": 4 * n * num_keys * d,
        "cross q and out": 4 * n * d * d,
        "cross attention": 4 * n * size.num_text * d,
        "feed-forward": 4 * n * d * f,
    }


def layer_flop(size: LayerSize, options: LayerOptions = USEFUL) -> dict[str, int]:
    """FLOP of one layer by component, ``"mv ..."``, ``"uv ..."`` and ``"text k and v"``."""
    d, f, r, n_mv, n_uv = size.dim, size.ffn_dim, size.lora_rank, size.num_mv, size.num_uv
    parts = {"mv self q, k, v": 6 * n_mv * d * d}
    parts |= {f"mv {name}": flop for name, flop in branch_flop(n_mv, n_mv, size).items()}
    if not options.lora_merged:
        parts["mv LoRA"] = 4 * 2 * n_mv * r * 2 * d + 2 * 2 * n_mv * r * (d + f)
    if not options.geometry_cached:
        parts["mv geometry projection"] = 2 * n_mv * d * d
    if options.with_uv:
        parts["uv self q, k, v"] = 2 * n_uv * d * d + 4 * (n_mv + n_uv) * d * d
        uv = branch_flop(n_uv, n_mv + n_uv, size)
        parts |= {f"uv {name}": flop for name, flop in uv.items()}
        if not options.geometry_cached:
            parts["uv geometry projection"] = 2 * n_uv * d * d
    if not options.text_cached:
        parts["text k and v"] = 4 * size.num_text * d * d
    return parts


def layer_bytes(size: LayerSize, options: LayerOptions = USEFUL, *, itemsize: int) -> int:
    """Least traffic of one layer: weights, cached geometry, text k and v read once; streams twice.

    The residual streams are read and written once, as if everything between stayed on the chip.
    """
    d, f = size.dim, size.ffn_dim
    branches = 2 if options.with_uv else 1
    tokens = size.num_mv + (size.num_uv if options.with_uv else 0)
    weights = branches * (4 * d * d + 2 * d * f) + 2 * d * d
    return itemsize * (weights + 3 * tokens * d + 2 * size.num_text * d)


def layer_work(
    size: LayerSize, options: LayerOptions = USEFUL, *, layers: int = 1, itemsize: int = 2
) -> Work:
    """Useful FLOP and least traffic of some layers."""
    suffix = f"{'' if options.with_uv else ' without uv'}, {layers} layers"
    return Work(
        flop=float(layers * sum(layer_flop(size, options).values())),
        flop_formula=f"layer_flop{suffix}",
        bytes=float(layers * layer_bytes(size, options, itemsize=itemsize)),
        bytes_formula=f"layer_bytes{suffix}",
    )


def unified_layer_flop(size: LayerSize) -> int:
    """FLOP of one layer of a single branch over all tokens with full attention, text cached."""
    n = size.num_mv + size.num_uv
    return 6 * n * size.dim**2 + sum(branch_flop(n, n, size).values())


def fixed_step_flop(
    tokens: int, dim: int, *, patch_channels: int, freq_dim: int, frames: int
) -> int:
    """FLOP of a step outside the layers: patch embedding, time embedding, output projection.

    Args:
        tokens: of all groups.
        dim: width of the residual stream.
        patch_channels: latent channels times texels of a patch.
        freq_dim: width of the sinusoid.
        frames: frames of all groups.
    """
    patches = 2 * 2 * tokens * patch_channels * dim
    time = 2 * frames * (freq_dim * dim + dim * dim + 6 * dim * dim)
    return patches + time


def attention_flop(
    batch: int, num_queries: int, num_keys: int, inner_dim: int, *, backward: bool = False
) -> int:
    """FLOP of attention: 4 B Lq Lk N D forward, 2.5 times that backward (recomputed scores)."""
    forward = 4 * batch * num_queries * num_keys * inner_dim
    return forward * 5 // 2 if backward else forward


def attention_bytes(
    batch: int, num_queries: int, num_keys: int, inner_dim: int, *, itemsize: int
) -> int:
    """Queries, keys and values read once, the output written once."""
    return batch * inner_dim * (2 * num_queries + 2 * num_keys) * itemsize


def rope_bytes(batch: int, tokens: int, inner_dim: int, head_dim: int, *, itemsize: int) -> int:
    """``x`` read and written once, the fp32 cosines and sines read once."""
    return 2 * batch * tokens * inner_dim * itemsize + tokens * head_dim * 4


def qk_prep_bytes(batch: int, tokens: int, inner_dim: int, head_dim: int, *, itemsize: int) -> int:
    """Like ``rope_bytes`` with the geometry read once more; the norm's weight is not counted."""
    rope = rope_bytes(batch, tokens, inner_dim, head_dim, itemsize=itemsize)
    return rope + batch * tokens * inner_dim * itemsize


def qk_prep_backward_bytes(
    batch: int, tokens: int, inner_dim: int, head_dim: int, *, itemsize: int
) -> int:
    """Forward, and backward: gradient and ``x`` read, that of ``x`` written, the table read.

    The gradient of geometry added after the rotation is the incoming one; nothing is moved for it.
    """
    forward = qk_prep_bytes(batch, tokens, inner_dim, head_dim, itemsize=itemsize)
    return forward + 3 * batch * tokens * inner_dim * itemsize + tokens * head_dim * 4


def norm_bytes(batch: int, tokens: int, dim: int, frames: int, *, itemsize: int) -> int:
    """Rows read and written once, fp32 factor and shift of every frame read once."""
    return 2 * batch * tokens * dim * itemsize + 2 * batch * frames * dim * 4


def gate_bytes(batch: int, tokens: int, dim: int, frames: int, *, itemsize: int) -> int:
    """Stream and update read, stream written, the fp32 gate of every frame read once."""
    return 3 * batch * tokens * dim * itemsize + batch * frames * dim * 4


def sum_norm_bytes(
    batch: int, rows: int, width: int, frames: int, *, itemsize: int, backward: bool = False
) -> int:
    """Stream and update read, sum and normalised rows written; gate, factor and shift are fp32.

    Backward also reads both gradients, update, sum, gate and factor, and writes the gradients of
    stream, update, gate, factor and shift.
    """
    moved, levels = (4 + 6, 3 + 5) if backward else (4, 3)
    return batch * (moved * rows * itemsize + levels * frames * 4) * width


FORMULAS: Mapping[str, str] = {
    "layer_flop": "useful FLOP of an MUV layer: LoRA merged, geometry and text k, v cached",
    "layer_bytes": "weights, cached geometry, text k, v read once; residual streams read and "
    "written once",
    "attention_flop": "4 B Lq Lk N D forward, 2.5 times that backward",
    "attention_bytes": "q, k, v read once, output written once",
    "rope_bytes": "x read and written once, fp32 table read once",
    "qk_prep_backward_bytes": "qk_prep_bytes; gradient and x read, gradient of x written",
    "norm_bytes": "rows read and written, fp32 factor and shift of each frame read",
    "gate_bytes": "stream and update read, stream written, fp32 gate of each frame read",
    "sum_norm_bytes": "stream and update read, sum and its norm written, fp32 rows of each frame "
    "read; backward also gradients, update and sum read, gradients written",
    "qk_prep_bytes": "x and geometry read, result written, fp32 table read, once each",
}
