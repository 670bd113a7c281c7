"""What a model looks like in another layout: new names, config, merged adapters."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqtex_backbones.codecs.protocol import CODECS, ValueRanges
from seqtex_backbones.codecs.video_vae import VideoVAECodec
from seqtex_backbones.seqtex_release import (
    RELEASED_DECOUPLED,
    check_released_config,
    released_config_json,
)
from seqtex_backbones.seqtex_release_keys import released_names
from seqtex_backbones.wan.backbone import WanBackbone
from seqtex_backbones.wan.configs import WanConfig
from seqtex_backbones.wan.keys import to_original
from seqtex_backbones.wan.sizes import original_config_json
from seqtex_core.checkpoint import save_model, unique_tensors
from seqtex_core.errors import InputError, UsageError
from seqtex_core.lora_exchange import lora_metadata
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.weight_stream import TensorSource

from .config import CODEC_WEIGHTS_NAME, WEIGHTS_NAME
from .conversion_sources import Layout, SeqTexSource, Source, WanSource
from .folder import CONFIG_NAME
from .sources import TEXT_FOLDERS

LORA_NAME = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayoutResult:
    """A model in another layout, not yet written.

    Args:
        tensors: under their new names.
        config: written beside them in a folder.
        config_name: its file.
        file_name: of the weights in a folder; as diffusers names them by default.
        metadata: of the weights' header.
        extras: what else is written into a folder; called with it.
        notes: what the user should know.
    """

    tensors: Mapping[str, TensorSource]
    config: Mapping[str, Any] | None = None
    config_name: str = "config.json"
    file_name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    extras: tuple[Callable[[Path], None], ...] = ()
    notes: tuple[str, ...] = ()


def in_layout(to: Layout, source: Source, *, vae: Path | None = None) -> LayoutResult:
    """The source in the layout ``to``.

    Args:
        to: see ``convert``.
        source: from ``open_source``.
        vae: folder of a diffusers VAE, for a model folder.

    Raises:
        UsageError: a layout that cannot hold the source or a VAE, or a VAE of other latents.
        InputError: no VAE in that folder.
        WeightsError: a VAE of another class.
    """
    if vae is not None and to != "seqtex":
        raise UsageError(
            "--vae",
            expected="--to seqtex: no other layout has a VAE",
            got=f"--to {to}",
            remedy="Leave it out.",
        )
    return _LAYOUTS[to](source, vae)


def _diffusers(source: Source, vae: Path | None) -> LayoutResult:
    del vae
    wan, notes = _as_wan(source)
    record = {"_class_name": "WanTransformer3DModel", **wan.config.to_diffusers()}
    return LayoutResult(tensors=wan.tensors, config=record, notes=notes)


def _original(source: Source, vae: Path | None) -> LayoutResult:
    del vae
    wan, notes = _as_wan(source)
    tensors = {to_original(name): tensor for name, tensor in wan.tensors.items()}
    return LayoutResult(tensors=tensors, config=original_config_json(wan.config), notes=notes)


def _released(source: Source, vae: Path | None) -> LayoutResult:
    del vae
    model = _as_seqtex(source, "released")
    config = model.config.decoupled
    check_released_config(config)
    wanted = (RELEASED_DECOUPLED.geometry_order, RELEASED_DECOUPLED.uv_key_source)
    if (config.geometry_order, config.uv_key_source) != wanted:
        raise UsageError(
            "released layout",
            expected=f"a model with {' and '.join(wanted)}, as the released system computes",
            got=f"{config.geometry_order} and {config.uv_key_source}",
        )
    names = released_names(model.tensors)
    notes: tuple[str, ...] = ()
    if config.lora_alpha / config.lora_rank != 0.5:
        notes = (f"the layout does not say alpha: give {config.lora_alpha:g} where it is loaded",)
    return LayoutResult(
        tensors={names[name]: tensor for name, tensor in model.tensors.items()},
        config=released_config_json(model.empty),
        notes=notes,
    )


def _seqtex(source: Source, vae: Path | None) -> LayoutResult:
    model = _as_seqtex(source, "seqtex")
    config = model.config
    notes: tuple[str, ...] = ()
    extras: list[Callable[[Path], None]] = []
    if vae is not None:
        codec = _vae(vae, model)
        config = replace(config, codec=codec.to_config())
        extras.append(lambda scratch: save_model(codec, scratch / CODEC_WEIGHTS_NAME))
    elif model.folder is None:
        notes = ("the VAE is not in the folder: add it with --vae DIR",)
    if model.folder is not None:
        extras.insert(0, partial(_copy_beside, model.folder))
    return LayoutResult(
        tensors=model.tensors,
        config=config.to_json(),
        config_name=CONFIG_NAME,
        file_name=WEIGHTS_NAME,
        extras=tuple(extras),
        notes=notes,
    )


def _vae(folder: Path, model: SeqTexSource) -> VideoVAECodec:
    """The codec of a model, with the sizes and weights of a diffusers VAE."""
    settings = model.config.codec
    kind: Any = CODECS.get(str(settings["codec"]))
    if not issubclass(kind, VideoVAECodec):
        raise UsageError(
            "--vae", expected="none: the model's codec has no weights", got=f"{folder}"
        )
    inside = folder / "vae"
    place = inside if inside.is_dir() else folder
    if not (place / "config.json").is_file():
        raise InputError(
            f"--vae {folder}",
            expected="a VAE's folder as diffusers writes it, or that of its pipeline",
            got="no config.json in it" if place.is_dir() else "no such folder",
        )
    codec: VideoVAECodec = kind.from_pretrained(
        place,
        ranges=ValueRanges.from_config(settings["ranges"]),
        sample_posterior=settings["sample_posterior"],
        frames_per_chunk=settings["frames_per_chunk"],
        local_files_only=True,
    )
    wanted = model.empty.spec.latent_channels
    if codec.latent_channels != wanted:
        raise UsageError(
            f"--vae {folder}",
            expected=f"a VAE of {wanted} latent channels, as the transformer reads",
            got=str(codec.latent_channels),
        )
    return codec


def _copy_beside(folder: Path, scratch: Path) -> None:
    """The rest of a model folder: codec, text encoder, records."""
    for path in folder.iterdir():
        if path.name in (CONFIG_NAME, WEIGHTS_NAME) or path.name.startswith("."):
            continue
        if path.is_dir():
            text = {name for name in TEXT_FOLDERS if (path / name).is_dir()}
            for name in text:  # a link may lead to a whole pipeline, which has more
                shutil.copytree(path / name, scratch / path.name / name)
            if not text:
                shutil.copytree(path, scratch / path.name)
        else:
            shutil.copy2(path, scratch / path.name)


def _lora(source: Source, vae: Path | None) -> LayoutResult:
    del vae
    model = _as_seqtex(source, "lora")
    adapters = {
        f"transformer.{key}": model.tensors[name]
        for name, key in _mv_keys(model.empty).items()
        if ".lora_A." in key or ".lora_B." in key
    }
    if not adapters:
        raise UsageError("--to lora", expected="a model with adapters", got="mv_train 'full'")
    return LayoutResult(tensors=adapters, file_name=LORA_NAME, metadata=lora_metadata(model.empty))


def _as_seqtex(source: Source, to: Layout) -> SeqTexSource:
    if isinstance(source, WanSource):
        raise UsageError(
            f"--to {to}",
            expected="a SeqTex model: released weights or a model folder",
            got="a plain Wan transformer, which has no texture branch",
            remedy="Train one on it: base and backbone_weights in the config of `seqtex train`.",
        )
    return source


def _as_wan(source: Source) -> tuple[WanSource, tuple[str, ...]]:
    """A Wan transformer; of a SeqTex model its mv branch, adapters merged."""
    if isinstance(source, WanSource):
        return source, ()
    backbone = source.empty.backbone
    if not isinstance(backbone, WanBackbone):
        kind = type(backbone).__name__
        raise UsageError("backbone", expected="a Wan model", got=kind)
    decoupled = source.config.decoupled
    keys = _mv_keys(source.empty)
    tensors = {}
    for name, key in keys.items():
        layer = name.removesuffix(".weight")
        if ".lora_A." in name or ".lora_B." in name:
            continue
        parts = [source.tensors.get(f"{layer}.lora_{side}.weight") for side in "AB"]
        own = source.tensors[name]
        if parts[0] is not None and parts[1] is not None:
            scale = decoupled.lora_alpha / decoupled.lora_rank
            read = partial(_merged, own, parts[0], parts[1], scale)
            own = TensorSource(shape=own.shape, dtype=own.dtype, read=read)
        tensors[key] = own
    config = WanConfig.from_diffusers(backbone.config)
    notes: tuple[str, ...] = (
        "views only: a Wan transformer has no texture branch and no geometry",
    )
    if backbone.prediction != "velocity":
        notes += (f"it predicts {backbone.prediction!r}, where Wan predicts the velocity",)
    return WanSource(layout=source.layout, tensors=tensors, config=config), notes


def _merged(base: TensorSource, down: TensorSource, up: TensorSource, scale: float) -> Tensor:
    """``W + scale B A`` in fp32, as ``LoRALinear.merged_weight``; rounded when it is written."""
    wide = torch.promote_types(base.read().dtype, torch.float32)
    delta = up.read().to(wide) @ down.read().to(wide)
    return base.read().to(wide) + scale * delta


def _mv_keys(transformer: SeqTexTransformer) -> dict[str, str]:
    """``{our name: the backbone's own key}`` of the mv branch, adapters included."""
    names = {id(tensor): name for name, tensor in unique_tensors(transformer).items()}
    native = transformer.backbone.original_keys(
        transformer.shells["mv"].state_dict(keep_vars=True),
        [block.mv.state_dict(keep_vars=True) for block in transformer.muv_blocks()],
    )
    return {names[id(tensor)]: key for key, tensor in native.items()}


_LAYOUTS: Mapping[Layout, Callable[[Source, Path | None], LayoutResult]] = {
    "diffusers": _diffusers,
    "original": _original,
    "released": _released,
    "seqtex": _seqtex,
    "lora": _lora,
}
