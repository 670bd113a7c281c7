"""Weights to convert: what they are, under canonical names, not yet read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import native_tensors
from seqtex_backbones.seqtex_release import (
    RELEASED_DECOUPLED,
    check_released,
    empty_released,
    released_entry,
)
from seqtex_backbones.seqtex_release_keys import released_names
from seqtex_backbones.wan.configs import WAN_2_1_T2V_1_3B, WanConfig, WanEntry
from seqtex_backbones.wan.keys import diffusers_names
from seqtex_backbones.wan.sizes import HEAD_DIM, wan_config_of
from seqtex_backbones.weight_source import find_weights
from seqtex_core.checkpoint import unique_tensors
from seqtex_core.errors import InputError, UsageError, WeightsError
from seqtex_core.transformer import SeqTexTransformer
from seqtex_core.weight_files import WeightFiles
from seqtex_core.weight_report import check_weights, grouped
from seqtex_core.weight_stream import TensorSource, from_files

from .config import WEIGHTS_NAME, ModelConfig
from .folder import CONFIG_NAME
from .released import released_model_config

Layout = Literal["diffusers", "original", "released", "seqtex", "lora"]
LAYOUTS: tuple[Layout, ...] = ("diffusers", "original", "released", "seqtex", "lora")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What the files do not say; ``None`` for what Wan and the released system have.

    Args:
        head_dim: channels per head of a Wan model without a config that says it.
        lora_alpha: of released weights.
    """

    head_dim: int | None = None
    lora_alpha: float | None = None

    def refuse(self, *names: str, decided: str) -> None:
        """Refuse options that would change nothing.

        Args:
            names: fields.
            decided: what says them instead.

        Raises:
            UsageError: one of them was given.
        """
        for name in names:
            if getattr(self, name) is not None:
                raise UsageError(
                    "--" + name.replace("_", "-"),
                    expected=f"none: {decided}",
                    got=str(getattr(self, name)),
                    remedy="Leave it out.",
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class WanSource:
    """A Wan transformer.

    Args:
        layout: of its files.
        tensors: by diffusers' names.
        config: its sizes.
    """

    layout: Layout
    tensors: Mapping[str, TensorSource]
    config: WanConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class SeqTexSource:
    """A SeqTex transformer.

    Args:
        layout: of its files.
        tensors: by our names.
        config: of the model.
        empty: the transformer without memory: names and shapes.
        folder: the model folder, if it comes from one.
    """

    layout: Layout
    tensors: Mapping[str, TensorSource]
    config: ModelConfig
    empty: SeqTexTransformer
    folder: Path | None = None


Source = WanSource | SeqTexSource


@contextmanager
def open_source(
    path: Path, options: SourceOptions, *, dtype: torch.dtype | None = None
) -> Iterator[Source]:
    """The weights at ``path``, checked by their headers; readable until the block ends.

    Args:
        path: a model folder, a folder or a safetensors file.
        options: what the files do not say.
        dtype: that tensors are given in; the files' own by default.

    Raises:
        InputError: nothing there.
        WeightsError: weights that are damaged, partial, or of no layout that is known.
    """
    if not path.exists():
        raise InputError("SRC", expected="a folder or a safetensors file", got=f"{path}: neither")
    if (path / CONFIG_NAME).is_file():
        with WeightFiles([path / WEIGHTS_NAME]) as files:
            files.unwrap()
            yield _model_folder(path, files, options, dtype)
        return
    found = find_weights(path)
    with WeightFiles(found.files) as files:
        files.unwrap()
        if any(".attnuv." in key for key in files):
            yield _released(path, files, found.config, options, dtype)
        elif any(key.endswith("patch_embedding.weight") for key in files):
            yield _wan(path, files, found.config, options, dtype)
        else:
            raise WeightsError(
                str(path),
                expected="a Wan transformer, released SeqTex weights or a SeqTex model folder",
                got=f"tensors called {grouped(files)}",
            )


def _model_folder(
    path: Path, files: WeightFiles, options: SourceOptions, dtype: torch.dtype | None
) -> SeqTexSource:
    options.refuse("head_dim", "lora_alpha", decided=f"{CONFIG_NAME} in SRC says it")
    config = ModelConfig.read(path)
    empty = empty_released(entry_from_config(config.backbone), config.decoupled)
    wanted = {name: tuple(t.shape) for name, t in unique_tensors(empty).items()}
    check_weights(f"weights of model {path}", wanted, files.shapes)
    return SeqTexSource(
        layout="seqtex",
        tensors=from_files(files, {name: name for name in files}, dtype=dtype),
        config=config,
        empty=empty,
        folder=path,
    )


def _released(
    path: Path,
    files: WeightFiles,
    told: Mapping[str, Any] | None,
    options: SourceOptions,
    dtype: torch.dtype | None,
) -> SeqTexSource:
    plain = {key.replace(".base_layer.", "."): shape for key, shape in files.shapes.items()}
    if told:
        options.refuse("head_dim", decided="config.json in SRC says it")
        sizes = released_entry(told, source=str(path)).config
    else:
        head_dim = options.head_dim or HEAD_DIM
        sizes = wan_config_of(plain, head_dim=head_dim, subject=str(path))
    rank = next((s[0] for key, s in files.shapes.items() if ".lora_A." in key), 1)
    alpha = RELEASED_DECOUPLED.lora_alpha if options.lora_alpha is None else options.lora_alpha
    decoupled = replace(RELEASED_DECOUPLED, lora_rank=rank, lora_alpha=alpha)
    entry = WanEntry(name="wan-of-seqtex", summary="the Wan model of a checkpoint", config=sizes)
    empty = empty_released(entry, decoupled)
    named = unique_tensors(empty)
    check_released(named, files.shapes, subject=str(path))
    names = {key: name for name, key in released_names(named).items()}
    config = released_model_config(decoupled=decoupled, backbone=backbone_settings(sizes))
    return SeqTexSource(
        layout="released",
        tensors=from_files(files, names, dtype=dtype),
        config=config,
        empty=empty,
    )


def _wan(
    path: Path,
    files: WeightFiles,
    told: Mapping[str, Any] | None,
    options: SourceOptions,
    dtype: torch.dtype | None,
) -> WanSource:
    options.refuse("lora_alpha", decided="a plain Wan transformer has no adapters")
    names = diffusers_names(files)
    shapes = {names[key]: shape for key, shape in files.shapes.items()}
    if told and told.get("_class_name") == "WanTransformer3DModel":
        options.refuse("head_dim", decided="config.json in SRC says it")
        config = WanConfig.from_diffusers(told)
    else:
        heads = int(told["num_heads"]) if told and "num_heads" in told else None
        if heads:
            options.refuse("head_dim", decided="config.json in SRC says it")
        dim = shapes.get("patch_embedding.weight", (0,))[0]
        head_dim = dim // heads if heads else options.head_dim or HEAD_DIM
        config = wan_config_of(shapes, head_dim=head_dim, subject=str(path))
    with torch.device("meta"):
        model = WanEntry(name="wan", summary="to compare with", config=config).build()
    wanted = {name: tuple(t.shape) for name, t in native_tensors(model).items()}
    check_weights(f"Wan weights in {path}", wanted, shapes)
    if len(shapes) != len(files.shapes):
        raise WeightsError(
            str(path), expected="every tensor once", got="one under the names of both formats"
        )
    return WanSource(
        layout="diffusers" if all(key == name for key, name in names.items()) else "original",
        tensors=from_files(files, names, dtype=dtype),
        config=config,
    )


def backbone_settings(sizes: WanConfig) -> dict[str, Any]:
    """Settings of a model config's backbone: the registered name where the sizes are the same."""
    if sizes == WAN_2_1_T2V_1_3B.config:
        return {"name": WAN_2_1_T2V_1_3B.name}
    return {"name": "wan-of-seqtex", "architecture": "wan", "config": _plain(sizes)}


def _plain(sizes: WanConfig) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(sizes).items()}
