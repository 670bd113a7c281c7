"""What a model needs for given sizes: weights added up, working tensors counted on meta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqtex_backbones.codecs.protocol import Codec, codec_from_config
from seqtex_backbones.codecs.video_vae import VideoVAECodec
from seqtex_core.attention import Attend
from seqtex_core.errors import UsageError
from seqtex_core.frame_plan import DEFAULT_STREAMS
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.inference import prepare_for_inference
from seqtex_core.tasks import PROJECTION, TEXTURE, VIEWS
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .config import ModelConfig
from .fill import tensor_bytes
from .live_bytes import kept_bytes, peak_bytes
from .memory import BLENDED_TILE, EXACT_TILE, CodecMode, MemoryNeeds
from .run_sizes import KnownSizes

_VIEW_MAP_BYTES = 72
_UV_MAP_BYTES = 113
"""Per sample of the geometry maps while they are made; counted on the demonstration mesh."""


def memory_needs(
    empty: SeqTexTransformer, config: ModelConfig, sizes: KnownSizes, *, text_bytes: int = 0
) -> MemoryNeeds:
    """Bytes for every stage of a run, found without computing anything.

    Args:
        empty: the model's transformer on the meta device, in the dtypes that it will have.
        config: of the model.
        sizes: of the run.
        text_bytes: of the text encoder's weights.
    """
    blocks = [tensor_bytes(block) for block in empty.muv_blocks()]
    weights = tensor_bytes(empty)
    samples = sizes.num_views * (config.supersample * sizes.view_size) ** 2
    codec = _codec_needs(config.codec, max(sizes.view_size, sizes.uv_size))
    return MemoryNeeds(
        transformer=weights,
        outside_blocks=weights - sum(blocks),
        largest_block=max(blocks),
        text=text_bytes,
        codec={mode: needs[0] for mode, needs in codec.items()},
        maps=_VIEW_MAP_BYTES * samples + _UV_MAP_BYTES * sizes.uv_size**2,
        encode={mode: needs[1] for mode, needs in codec.items()},
        decode={mode: needs[2] for mode, needs in codec.items()},
        denoise=step_bytes(empty, config, sizes, cached=True),
        denoise_recast=step_bytes(empty, config, sizes, cached=False),
    )


def step_bytes(
    transformer: SeqTexTransformer, config: ModelConfig, sizes: KnownSizes, *, cached: bool
) -> int:
    """Tensors of one step and of what is kept over the steps, beside the weights.

    A CUDA graph keeps a pool of its own as long as the run lasts, in which the tensors of its step
    are; what the calls before its capture took has been freed by then. So one graph needs what a
    step needs without it, and with guidance the pools of two are there at once.

    Args:
        transformer: on the meta device; made ready for inference, as the one that will run is.
            Attention is counted as its output alone.
        config: says how much smaller latents are than pictures.
        sizes: of the run.
        cached: whether geometry is kept for all blocks.
    """
    factor = codec_on_meta(config.codec, "float32").spatial_factor
    view, uv = sizes.view_size // factor, sizes.uv_size // factor
    frames = {VIEWS: (sizes.num_views, view, view), TEXTURE: (1, uv, uv)}
    if config.task.endswith("_projected"):
        frames[PROJECTION] = (1, uv, uv)
    channels = transformer.spec.latent_channels
    copies = config.decoupled.copy is not None

    def latents_of() -> dict[str, Tensor]:
        return {n: torch.empty(1, channels, *size, device="meta") for n, size in frames.items()}

    def prepared(latents: dict[str, Tensor]) -> list[StepCache]:
        maps = {
            n: GeometryLatents(
                position=x,
                normal=x,
                points=torch.empty(1, 6, *frames[n], device="meta") if copies else None,
            )
            for n, x in latents.items()
        }
        streams = transformer.config.streams(DEFAULT_STREAMS)
        layout = transformer.layout(frames, {n: streams[n] for n in frames})
        return [
            transformer.prepare(layout, geometry=maps, clean=latents, precompute=cached)
            for _ in range(2 if sizes.guided else 1)
        ]

    def run() -> None:
        latents = latents_of()
        sigmas = {n: torch.empty(1, size[0], device="meta") for n, size in frames.items()}
        for cache in prepared(latents):
            transformer(latents, sigmas, cache)

    prepare_for_inference(transformer)
    real: Attend = transformer.attend
    transformer.attend = _outputs_only
    weights = [*transformer.parameters(), *transformer.buffers()]
    try:
        peak = peak_bytes(run, beside=weights)
        if not (sizes.graphed and sizes.guided):
            return peak
        return 2 * peak - kept_bytes(lambda: prepared(latents_of()), beside=weights)
    finally:
        transformer.attend = real


def codec_on_meta(settings: Mapping[str, Any], mode: CodecMode) -> Codec:
    """The codec that a config describes, without memory for its weights."""
    with torch.device("meta"):
        codec = codec_from_config(settings)
    return set_codec_mode(codec, mode)


def set_codec_mode(codec: Codec, mode: CodecMode) -> Codec:
    """Let a VAE compute as ``mode`` says; other codecs have no modes and stay as they are."""
    if isinstance(codec, VideoVAECodec):
        codec.to(torch.bfloat16 if mode in ("bfloat16", "blended_tiles") else torch.float32)
        if mode == "exact_tiles":
            codec.tile_size = EXACT_TILE
        if mode == "blended_tiles":
            vae: Any = codec.vae
            vae.enable_tiling(
                tile_sample_min_height=BLENDED_TILE,
                tile_sample_min_width=BLENDED_TILE,
                tile_overlap_factor_height=_OVERLAP,
                tile_overlap_factor_width=_OVERLAP,
            )
    return codec


def codec_modes(codec: Codec, size: int) -> tuple[CodecMode, ...]:
    """Ways in which a codec can compute pictures of ``size`` x ``size`` pixels."""
    if not isinstance(codec, VideoVAECodec):
        return ("float32",)
    try:
        type(codec)(codec.vae, tile_size=EXACT_TILE)
    except UsageError:
        stride = round(BLENDED_TILE * (1 - _OVERLAP))
        if codec.name not in _BLENDING or 0 < size % stride < _NARROWEST:
            return ("float32", "bfloat16")
        return ("float32", "bfloat16", "blended_tiles")
    return ("float32", "exact_tiles", "bfloat16")


def codec_bytes(codec: Codec) -> int:
    """Bytes of the codec's weights."""
    return tensor_bytes(codec) if isinstance(codec, nn.Module) else 0


def _codec_needs(settings: Mapping[str, Any], size: int) -> dict[CodecMode, tuple[int, int, int]]:
    """Per mode that the codec has at this size: bytes of weights, of encoding, of decoding.

    A VAE whose tiles are blended holds one tile at a time, and the picture a few times over: the
    finished tiles (with their overlaps, ``(4 / 3)^2`` of it), the blended ones and their sum.
    """
    found: dict[CodecMode, tuple[int, int, int]] = {}
    for mode in codec_modes(codec_on_meta(settings, "float32"), size):
        edge, pictures = size, 0
        if mode == "blended_tiles":
            edge, pictures = min(size, BLENDED_TILE), 4 * 3 * size**2 * 2
        codec = codec_on_meta(settings, mode)
        encode, decode = _encode_bytes(codec, edge), _decode_bytes(codec, edge)
        found[mode] = (codec_bytes(codec), encode + pictures, decode + pictures)
    return found


_BLENDING = frozenset({"cogvideox_vae"})
"""Codecs whose VAE blends tiles by its ``enable_tiling``, with these options."""

_OVERLAP = 0.25
_NARROWEST = 32
"""Pixels of the last tile; the VAEs' kernels do not fit into less."""


def _encode_bytes(codec: Codec, size: int) -> int:
    def run() -> None:
        codec.encode(torch.empty(1, 3, size, size, device="meta"), generator=torch.Generator())

    return peak_bytes(run, beside=_tensors(codec))


def _decode_bytes(codec: Codec, size: int) -> int:
    edge = size // codec.spatial_factor

    def run() -> None:
        codec.decode(torch.empty(1, codec.latent_channels, 1, edge, edge, device="meta"))

    return peak_bytes(run, beside=_tensors(codec))


def _tensors(codec: Codec) -> list[Tensor]:
    return [*codec.parameters(), *codec.buffers()] if isinstance(codec, nn.Module) else []


class _OutputsOnly:
    """Attention whose scores are never held, as every fast implementation does it."""

    name = "outputs only"

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        del key, options
        return value.new_empty(*query.shape[:-1], value.shape[-1])


_outputs_only: Any = _OutputsOnly()
