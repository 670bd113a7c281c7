"""What a run starts from: the model folder or full-size model of ``[model] base``, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqtex_backbones.codecs.protocol import CODECS, Codec, codec_from_config
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import BACKBONES
from seqtex_core.adapter import BackboneSpec
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer

from ..models.catalog import CATALOG, CatalogEntry
from ..models.config import ModelConfig
from ..models.fill import empty_transformer
from ..models.folder import BUILT_IN, model_folder
from ..models.full_size import FullSizeParts, find_parts, load_codec_part, on_backbone
from ..models.load import load_codec
from ..models.run_sizes import check_multiple, token_pixels
from ..models.sources import TEXT_FOLDERS, ModelSources
from .config import TrainingConfig, merge_tables
from .export import trained_config

TEXT = "text"
"""Folder of the text encoder in a model that was trained from a full-size one."""

LoadTransformer = Callable[..., SeqTexTransformer]


@dataclass(frozen=True, kw_only=True, eq=False)
class StartingPoint:
    """A model before its first step.

    Args:
        model: its config, as the trained one will have it.
        codec: with its weights, on the CPU.
        text_folder: holds ``text_encoder/`` and ``tokenizer/``; ``None`` for all-zero text rows.
        folder: of a model that has weights of its own, if the base is one.
        backbone_weights: what ``find_weights`` takes; ``None`` for random weights.
        load: ``(config, backbone_weights, dtype) -> SeqTexTransformer``.
    """

    model: ModelConfig
    codec: Codec
    text_folder: Path | None
    folder: Path | None
    backbone_weights: str | Path | None
    load: LoadTransformer


def model_config(config: TrainingConfig) -> ModelConfig:
    """The config of the model that a run trains; reads no weights.

    Raises:
        WeightsError: no such base, or overrides that are no model config.
    """
    section = config.model
    entry = _entry(section.base)
    base = ModelConfig.read(_folder(config)) if entry is None else entry.model_config()
    record = _overridden(base.to_json(), section.overrides)
    _check_name(record["backbone"])
    made = ModelConfig.from_json(record, source="[model.overrides]")
    if entry is not None:
        told = section.summary or f"{entry.summary}, trained with `seqtex train`."
        section = replace(section, summary=told)
    return trained_config(made, section)


def starting_point(config: TrainingConfig) -> StartingPoint:
    """Everything that a run starts from, but for the transformer's weights.

    Raises:
        WeightsError: no such base, or a part of it that is missing or of another model.
        UsageError: settings that do not suit the base, or a codec of other latents.
    """
    model, entry = model_config(config), _entry(config.model.base)
    point = _of_folder(config, model) if entry is None else _of_entry(config, model, entry)
    _check(point, empty_transformer(model).spec)
    return point


def _overridden(record: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with ``changes`` put in.

    Another backbone or codec has no settings in common with the one before it: its table replaces
    the old one. ``"none"`` stands for what JSON calls null and TOML cannot say.
    """
    merged = merge_tables(record, changes)
    for table, keys in (("backbone", ("name", "architecture")), ("codec", ("codec",))):
        old, new = record[table], changes.get(table)
        if isinstance(new, Mapping) and any(new.get(k, old.get(k)) != old.get(k) for k in keys):
            merged[table] = {keys[0]: old[keys[0]], **new}
    for field in fields(ModelConfig):
        if field.default is None and merged.get(field.name) == "none":
            merged[field.name] = None
    if merged["decoupled"].get("copy") == "none":
        merged["decoupled"] = {**merged["decoupled"], "copy": None}
    return merged


def _check_name(backbone: Mapping[str, Any]) -> None:
    """Refuse a registered backbone's name for a model of another architecture."""
    name = backbone.get("name")
    if "architecture" not in backbone or name not in BACKBONES:
        return
    if type(BACKBONES.get(str(name))) is not type(entry_from_config(backbone)):
        raise UsageError(
            "[model.overrides.backbone]",
            expected=f"no architecture beside {name!r}, a registered backbone of another one",
            got=f"architecture {backbone['architecture']!r}",
            remedy="Leave architecture and config out, or choose another name.",
        )


def _of_folder(config: TrainingConfig, model: ModelConfig) -> StartingPoint:
    """The starting point of a model folder, which has its codec and its text encoder."""
    section, folder = config.model, _folder(config)
    for name in ("vae_weights", "text_weights"):
        if getattr(section, name) is not None:
            raise UsageError(
                f"[model] {name}",
                expected="a full-size model as base: " + ", ".join(CATALOG.names()),
                got=f"base {section.base!r}, which has its own",
                remedy="Leave it out.",
            )
    given = section.backbone_weights
    return StartingPoint(
        model=model,
        codec=load_codec(folder, model),
        text_folder=None if model.text_encoder is None else folder / model.text_encoder,
        folder=folder,
        backbone_weights=None if given is None else _place(config, given),
        load=on_backbone,
    )


def _of_entry(config: TrainingConfig, model: ModelConfig, entry: CatalogEntry) -> StartingPoint:
    """The starting point of a full-size model, from the files of its parts."""
    parts = _parts(config, model, entry)
    if _is_network(model):
        spec = empty_transformer(model).spec
        codec = load_codec_part(entry, model, parts, spec=spec, dtype=torch.float32)
    else:
        codec = codec_from_config(model.codec)
    text = None if config.model.text_weights == "none" else parts.text
    return StartingPoint(
        model=replace(model, codec=codec.to_config(), text_encoder=None if text is None else TEXT),
        codec=codec,
        text_folder=text,
        folder=None,
        backbone_weights=parts.weights,
        load=entry.load_transformer(),
    )


def _parts(config: TrainingConfig, model: ModelConfig, entry: CatalogEntry) -> FullSizeParts:
    """Where the parts of a full-size model are, after downloading what a hub id names."""
    section, with_vae = config.model, _is_network(model)
    weights, vae, text = (
        None if given is None else str(_place(config, given))
        for given in (section.backbone_weights, section.vae_weights, section.text_weights)
    )
    if with_vae and vae is None and (weights is None or _lacks_vae(Path(weights))):
        raise WeightsError(
            "[model] vae_weights",
            expected=f"the VAE of {entry.name}: a folder vae/ in backbone_weights, or vae_weights",
            got="neither",
            remedy=f"vae_weights also takes a hub id, such as {entry.vae_hub_id or entry.hub_id}.",
        )
    spoken = section.text_weights != "none"
    sources = ModelSources(
        weights=weights,
        vae=vae,
        text=text if spoken else None,
        random_seed=model.seed if weights is None else None,
    )
    parts = find_parts(entry, sources, with_text=spoken, with_vae=with_vae)
    if text is not None and spoken and not _has_text(parts.text):
        raise WeightsError(
            f"[model] text_weights {section.text_weights}",
            expected="a folder with text_encoder/ and tokenizer/, a hub id, or 'none'",
            got="no such folder" if not Path(text).is_dir() else "a folder without them",
        )
    return replace(parts, text=parts.text if _has_text(parts.text) else None)


def _check(point: StartingPoint, spec: BackboneSpec) -> None:
    """Refuse a codec whose latents the backbone does not read, and sizes that make no tokens."""
    model, codec = point.model, point.codec
    if codec.latent_channels != spec.latent_channels:
        raise UsageError(
            "[model.overrides.codec]",
            expected=f"latents of {spec.latent_channels} channels, as backbone {spec.name!r} reads",
            got=f"codec {codec.name!r}, which makes {codec.latent_channels}",
            remedy="The pixel codec makes 3 patch_size^2 channels.",
        )
    sizes = {"view_size": model.view_size, "uv_size": model.uv_size}
    check_multiple(
        {f"[model.overrides] {name}": size for name, size in sizes.items()},
        token_pixels=token_pixels(codec, spec),
    )


def _entry(base: str) -> CatalogEntry | None:
    """The full-size model of that name, if it is one; a folder's name is looked up nowhere."""
    return None if base in BUILT_IN or base not in CATALOG else CATALOG.get(base)


def _folder(config: TrainingConfig) -> Path:
    base = config.model.base
    return model_folder(base if base in BUILT_IN else config.path(base))


def _place(config: TrainingConfig, given: str) -> str | Path:
    """A path relative to the config, if there is something; otherwise a hub id, as it is."""
    local = config.path(str(Path(given).expanduser()))
    return local if local.exists() else given


def _is_network(model: ModelConfig) -> bool:
    kind: type = CODECS.get(str(model.codec.get("codec")))
    return issubclass(kind, nn.Module)


def _lacks_vae(weights: Path) -> bool:
    return weights.exists() and not (weights / "vae").is_dir()


def _has_text(folder: Path | None) -> bool:
    return folder is not None and all((folder / name).is_dir() for name in TEXT_FOLDERS)
