"""The released SeqTex transformer: its options, and its file in and out.

Source:
    SeqTex (arXiv 2507.04285), the released transformer and inference settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from seqtex_core.attention import Attend
from seqtex_core.checkpoint import unique_tensors
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.lora import lora_layers
from seqtex_core.parameter_table import ParameterTable
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.weight_files import WeightFiles
from seqtex_core.weight_report import check_weights
from seqtex_core.weight_stream import (
    DEFAULT_SHARD_BYTES,
    from_tensors,
    write_folder,
    write_json,
    write_stream,
)

from .registry import BackboneEntry, entry_of, stored_dtype
from .seqtex_release_keys import released_names
from .wan.backbone import WanBackbone
from .wan.configs import WanConfig, WanEntry
from .weight_source import WeightSource, find_weights

RELEASED_CLASS = "WanT2TexTransformer3DModel"
RELEASED_BACKBONE = "wan2.1-t2v-1.3b"
RELEASED_DECOUPLED = DecoupledConfig(
    geometry_order="pre_rope",
    uv_key_source="raw_post_attn",
    uv_share=frozenset({"cross_attn", "patch_embed", "time_text", "proj_out"}),
    mv_train="lora",
    lora_rank=128,
    lora_alpha=64.0,
)
"""How the released transformer is doubled. Its file does not say alpha: the scale is 64 / 128."""

Component = Literal["base", "lora", "uv", "geometry"]
COMPONENTS: tuple[Component, ...] = ("base", "lora", "uv", "geometry")


@dataclass(frozen=True, kw_only=True)
class WeightPlacement:
    """Where a component's weights go.

    Args:
        dtype: number format; the loader's by default.
        device: the loader's by default.
    """

    dtype: torch.dtype | None = None
    device: torch.device | str | None = None


def load_released(
    weights: str | Path,
    *,
    model: str | BackboneEntry | None = None,
    config: DecoupledConfig = RELEASED_DECOUPLED,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    components: Mapping[Component, WeightPlacement] | None = None,
    attention: str | Attend = "auto",
    local_files_only: bool = False,
) -> SeqTexTransformer:
    """A transformer with the weights of a checkpoint in the released layout.

    Every key is accounted for, and names and shapes are compared from the files' headers before a
    tensor is read. Tensors go straight to their place: the peak is about one copy of the model.

    Args:
        weights: a safetensors file, a folder, sharded or not, or a hub id.
        model: the Wan model that was doubled; by default what the ``config.json`` beside the
            weights says, without one ``RELEASED_BACKBONE``.
        config: how it was doubled. ``lora_alpha`` is not in the file.
        dtype: of the parameters; in half precision the model's sensitive parts stay fp32. The
            files' own, to the bit, by default.
        device: of the parameters.
        components: another dtype or device for "base", "lora", "uv" or "geometry". Parts that the
            branches share belong to the base.
        attention: see ``SeqTexTransformer``.
        local_files_only: no network for a hub id either.

    Raises:
        WeightsError: weights that are missing, damaged, pickled, partial or of another model.
        UsageError: a config that the layout cannot hold, or an unknown component.
    """
    check_released_config(config)
    placements = _placements(components or {}, dtype=dtype, device=device)
    source = find_weights(weights, local_files_only=local_files_only)
    entry = _entry(source, model, str(weights))
    transformer = empty_released(entry, config, attention=attention)
    named = unique_tensors(transformer)
    names = released_names(named)
    with WeightFiles(source.files) as files:
        files.unwrap()
        check_released(named, files.shapes, subject=str(weights))
        table = ParameterTable([transformer])
        for name, key in names.items():
            own = placements[component_of(name)]
            kind = stored_dtype(name, entry, own.dtype) if own.dtype else files.dtypes[key]
            table.replace(named[name], files.load(key, dtype=kind, device=own.device or "cpu"))
    return transformer


def save_released(
    transformer: SeqTexTransformer,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> list[Path]:
    """Write a transformer in the released layout; the files written.

    What ``load_released`` read comes out bit for bit, under the same keys.

    Args:
        transformer: on a Wan backbone, doubled as ``check_released_config`` demands.
        path: a ``.safetensors`` file, or a folder, made if needed, for weights and config.json.
        dtype: of the file; the weights' own by default.
        max_shard_bytes: of the files in a folder.

    Raises:
        UsageError: another backbone, doubling or prediction, or adapters that are merged.
    """
    check_released_config(transformer.config)
    if any(layer.is_merged for _, layer in lora_layers(transformer)):
        raise UsageError(
            "LoRA adapters", expected="unmerged ones", got="merged", remedy="Call unmerge_lora."
        )
    tensors = unique_tensors(transformer)
    names = released_names(tensors)
    streams = from_tensors({names[n]: tensor for n, tensor in tensors.items()}, dtype=dtype)
    target, record = Path(path), released_config_json(transformer)
    if target.suffix == ".safetensors":
        write_stream(target, streams)
        return [target]
    target.mkdir(parents=True, exist_ok=True)
    written = write_folder(target, streams, max_shard_bytes=max_shard_bytes)
    write_json(target / "config.json", record)
    return [*written, target / "config.json"]


def released_config_json(transformer: SeqTexTransformer) -> dict[str, Any]:
    """The ``config.json`` that stands beside released weights.

    Raises:
        UsageError: another backbone, or one that does not predict the velocity.
    """
    if not isinstance(transformer.backbone, WanBackbone):
        kind = type(transformer.backbone).__name__
        raise UsageError("backbone", expected="a Wan model", got=kind)
    if transformer.backbone.prediction != "velocity":
        raise UsageError(
            "released layout",
            expected="a model that predicts the velocity: the layout cannot say otherwise",
            got=f"one that predicts {transformer.backbone.prediction!r}",
        )
    sizes = transformer.backbone.config
    plain = {key: value for key, value in sizes.items() if not key.startswith("_")}
    return {"_class_name": RELEASED_CLASS, **plain}


def empty_released(
    entry: BackboneEntry,
    config: DecoupledConfig = RELEASED_DECOUPLED,
    *,
    attention: str | Attend = "auto",
) -> SeqTexTransformer:
    """The transformer without memory for its weights, on the meta device."""
    with torch.device("meta"):
        return SeqTexTransformer(entry.build(), config, attention=attention)


def check_released_config(config: DecoupledConfig) -> None:
    """Refuse a doubling that the released layout has no keys for.

    Orders of geometry and sources of keys are free: they have no weights.

    Raises:
        UsageError: other shared or separate parts, or no adapters.
    """
    free = replace(
        RELEASED_DECOUPLED,
        geometry_order=config.geometry_order,
        uv_key_source=config.uv_key_source,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_seed=config.lora_seed,
    )
    if config != free:
        names = [f.name for f in fields(config) if getattr(config, f.name) != getattr(free, f.name)]
        raise UsageError(
            "released layout",
            expected="; ".join(f"{name} {_told(getattr(free, name))}" for name in names),
            got="; ".join(_told(getattr(config, name)) for name in names),
        )


def check_released(
    named: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, subject: str
) -> None:
    """Refuse files whose keys or shapes are not those of the model, told in groups.

    Args:
        named: the model's weights under our names.
        shapes: of the files, from their headers.
        subject: what the files are called.

    Raises:
        WeightsError: with the missing, unexpected and misshapen keys.
    """
    names = released_names(named)
    wanted = {names[name]: tuple(tensor.shape) for name, tensor in named.items()}
    remedy = "Check the rank of the adapters and the size of the Wan model."
    if not any(".attnuv." in key for key in shapes):
        remedy = "These are not SeqTex weights; load_backbone reads plain Wan models."
    check_weights(f"released SeqTex weights in {subject}", wanted, shapes, remedy=remedy)


def released_entry(config: Mapping[str, Any], *, source: str) -> WanEntry:
    """The Wan model that the ``config.json`` of released weights describes.

    Raises:
        WeightsError: the config of another architecture.
    """
    kind = config.get("_class_name", RELEASED_CLASS)
    if kind not in (RELEASED_CLASS, "WanTransformer3DModel"):
        raise WeightsError(
            f"config.json of {source}", expected=f"_class_name {RELEASED_CLASS!r}", got=repr(kind)
        )
    sizes = WanConfig.from_diffusers({**config, "_class_name": "WanTransformer3DModel"})
    return WanEntry(name="seqtex-released", summary="the Wan model of a checkpoint", config=sizes)


def component_of(name: str) -> Component:
    """Which component a weight of ours belongs to."""
    if name.startswith("geometry.") or ".geometry_caster." in name:
        return "geometry"
    if ".lora_A." in name or ".lora_B." in name:
        return "lora"
    return "uv" if name.startswith("shells.uv.") or ".uv." in name else "base"


def _entry(source: WeightSource, model: str | BackboneEntry | None, subject: str) -> BackboneEntry:
    if model is not None:
        return entry_of(model)
    if source.config is None:
        return entry_of(RELEASED_BACKBONE)
    return released_entry(source.config, source=subject)


def _placements(
    components: Mapping[Component, WeightPlacement],
    *,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> dict[Component, WeightPlacement]:
    if unknown := sorted(set(components) - set(COMPONENTS)):
        raise UsageError("components", expected=f"names among {COMPONENTS}", got=str(unknown))
    given = [dtype, *(place.dtype for place in components.values())]
    for kind in given:
        if kind is not None and not kind.is_floating_point:
            raise UsageError("dtype", expected="a floating-point dtype", got=str(kind))
    return {
        name: WeightPlacement(dtype=place.dtype or dtype, device=place.device or device)
        for name in COMPONENTS
        for place in [components.get(name, WeightPlacement())]
    }


def _told(value: object) -> str:
    return str(sorted(value)) if isinstance(value, frozenset) else repr(value)
