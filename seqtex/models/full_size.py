"""Loading a full-size model part by part: backbone, VAE and text from their own files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqtex_backbones.codecs.protocol import CODECS, Codec, ValueRanges, codec_from_config
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import load_backbone
from seqtex_backbones.text import TextEncoder
from seqtex_backbones.weight_source import download, find_weights
from seqtex_core import checkpoint
from seqtex_core.adapter import BackboneSpec
from seqtex_core.errors import WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..manifest import ModelRecord, file_sha256
from ..stages import OnProgress, StageClock
from .catalog import CatalogEntry
from .config import ModelConfig
from .fill import empty_transformer, fill_with_seed
from .sources import HUB_ID, TEXT_FOLDERS, ModelSources, missing_vae, missing_weights
from .text import CachedText, VisitingTextEncoder


@dataclass(frozen=True, kw_only=True)
class FullSizeParts:
    """Where each part of a full-size model is on this disk; hub ids are downloaded already.

    Args:
        weights: what ``find_weights`` takes for the backbone; ``None`` for random weights.
        vae: the VAE's folder or file; ``None`` for random weights.
        text: folder with a text encoder and its tokenizer, if there is one.
    """

    weights: Path | None
    vae: Path | None
    text: Path | None


def find_parts(
    entry: CatalogEntry,
    sources: ModelSources,
    *,
    with_text: bool,
    with_vae: bool = True,
    on_progress: OnProgress | None = None,
) -> FullSizeParts:
    """The parts of a full-size model on this disk, after downloading what a hub id names.

    Args:
        entry: the model.
        sources: as the user gave them.
        with_text: whether the text encoder of a hub id is downloaded too.
        with_vae: whether the model's codec is a VAE with weights.
        on_progress: told about downloads. Optional.

    Raises:
        WeightsError: a part is missing, or cannot be downloaded.
    """
    text_parts = [f"{name}/" for name in TEXT_FOLDERS] if with_text else []
    pipeline = None
    if sources.weights is not None:
        folders = ["", "transformer/", *(["vae/"] if with_vae else []), *text_parts]
        pipeline = _local(sources.weights, folders, on_progress)
        find_weights(pipeline)  # what is not there at all is told before what goes with it
    elif sources.random_seed is None:
        raise missing_weights(entry)
    vae = None if sources.vae is None else _local(sources.vae, ["", "vae/"], on_progress)
    if vae is not None and (vae / "vae").is_dir():
        vae = vae / "vae"
    if with_vae and vae is None and pipeline is not None:
        vae = pipeline / "vae"
        if not vae.is_dir():
            raise missing_vae(entry, str(sources.weights))
    text = None
    if sources.text is not None:
        text = _local(sources.text, [f"{name}/" for name in TEXT_FOLDERS], on_progress)
    elif pipeline is not None:
        text = pipeline if (pipeline / TEXT_FOLDERS[0]).is_dir() else None
    return FullSizeParts(weights=pipeline, vae=vae, text=text)


def load_transformer(
    entry: CatalogEntry,
    config: ModelConfig,
    parts: FullSizeParts,
    *,
    seed: int | None,
    dtype: torch.dtype,
) -> SeqTexTransformer:
    """The transformer on the CPU; memory never holds more than one copy of it.

    Args:
        entry: says which function reads the weights.
        config: what to build.
        parts: where the weights are.
        seed: of random weights, if there are none.
        dtype: of the parameters, but for those that the backbone keeps in fp32.

    Raises:
        WeightsError: weights that are damaged or of another model.
    """
    if parts.weights is None:
        assert seed is not None, "checked by find_parts"
        transformer = empty_transformer(config, dtype=dtype)
        fill_with_seed(transformer, seed)
        return transformer
    made: SeqTexTransformer = entry.load_transformer()(config, parts.weights, dtype=dtype)
    return made


def on_backbone(config: ModelConfig, weights: Path, *, dtype: torch.dtype) -> SeqTexTransformer:
    """An untrained SeqTex model on a pretrained backbone: what training starts from.

    Args:
        config: of the model.
        weights: see ``find_weights``.
        dtype: of the parameters, but for those that the backbone keeps in fp32.

    Raises:
        WeightsError: see ``load_backbone``.
    """
    backbone = load_backbone(entry_from_config(config.backbone), weights=weights, dtype=dtype)
    return SeqTexTransformer(backbone, config.decoupled)


def load_codec_part(
    entry: CatalogEntry,
    config: ModelConfig,
    parts: FullSizeParts,
    *,
    spec: BackboneSpec,
    dtype: torch.dtype,
) -> Codec:
    """The model's codec on the CPU, with its weights or seeded random ones.

    Args:
        entry: the model, for messages.
        config: has the codec's settings; a VAE's own config replaces the sizes in it.
        parts: where the VAE is.
        spec: of the backbone, whose latents the codec must make.
        dtype: of the VAE's weights.

    Raises:
        WeightsError: weights that are damaged, or of a codec with other latents.
    """
    settings = config.codec
    if parts.vae is None or parts.vae.is_file():
        codec = codec_from_config(settings)
        if parts.vae is not None and isinstance(codec, nn.Module):
            vae: Any = codec.vae
            checkpoint.load_model(vae, parts.vae)
        if isinstance(codec, nn.Module):
            codec.to(dtype)
    else:
        kind: Any = CODECS.get(str(settings["codec"]))
        codec = kind.from_pretrained(
            parts.vae,
            dtype=dtype,
            ranges=ValueRanges.from_config(settings["ranges"]),
            sample_posterior=settings["sample_posterior"],
            frames_per_chunk=settings["frames_per_chunk"],
            local_files_only=True,
        )
    if codec.latent_channels != spec.latent_channels:
        raise WeightsError(
            f"VAE of {entry.name} in {parts.vae}",
            expected=f"{spec.latent_channels} latent channels",
            got=str(codec.latent_channels),
            remedy=f"Take the VAE of {entry.vae_hub_id or entry.hub_id}.",
        )
    return codec


def load_text_part(
    config: ModelConfig,
    sources: ModelSources,
    folder: Path | None,
    *,
    spec: BackboneSpec,
    device: torch.device | str,
    default_prompt: str | None = None,
) -> TextEncoder | None:
    """What encodes prompts: a file of encoded ones, an encoder, or nothing.

    Args:
        config: says what padding rows are.
        sources: may name a file of encoded prompts.
        folder: of a text encoder, if there is one.
        spec: of the backbone that reads the rows.
        device: where the encoder runs, while it runs.
        default_prompt: see :class:`VisitingTextEncoder`.

    Raises:
        WeightsError: the file holds rows of another width.
    """
    if sources.text_embeddings is not None:
        return CachedText.read(
            Path(sources.text_embeddings), max_length=spec.text_length, width=spec.text_dim
        )
    if folder is None:
        return None
    return VisitingTextEncoder(
        folder,
        device=device,
        max_length=spec.text_length,
        padding=config.text_padding,
        default_prompt=default_prompt,
    )


def record_of(
    entry: CatalogEntry, config: ModelConfig, parts: FullSizeParts, sources: ModelSources
) -> ModelRecord:
    """Name, hash and state of the weights, for manifests."""
    files: list[Path] = []
    if parts.weights is not None:
        files += find_weights(parts.weights).files
    if parts.vae is not None:
        files += find_weights(parts.vae).files
    digest = hashlib.sha256()
    if sources.random_seed is not None:
        facts = json.dumps([config.to_json(), sources.random_seed], sort_keys=True)
        digest.update(facts.encode())
    for file in files:
        digest.update(file_sha256(file).encode())
    notes: tuple[str, ...] = ()
    if parts.weights is None:
        notes = ("untrained", f"seeded random weights, seed {sources.random_seed}")
    elif not entry.trained:
        notes = ("untrained", "a video model whose texture branch has not been trained")
    return ModelRecord(name=entry.name, sha256=digest.hexdigest(), notes=notes)


def _local(source: str, folders: Sequence[str], on_progress: OnProgress | None) -> Path:
    """A local path, or the local copy of what a hub id names."""
    path = Path(source).expanduser()
    if path.exists() or not HUB_ID.fullmatch(source):
        return path
    with StageClock(on_progress).stage(f"Download {source}", 100) as step:
        return download(
            source, folders=folders, on_bytes=lambda done, total: step(100 * done // total)
        )
