"""The table of backbones, and loading one by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.parameter_table import ParameterTable
from seqtex_core.registry import Registry
from seqtex_core.weight_files import WeightFiles
from seqtex_core.weight_report import check_weights

from .weight_source import find_weights


class BackboneEntry(Protocol):
    """What a registered backbone must be able to do.

    Attributes:
        name: registry name.
        summary: one line for listings.
        keep_in_fp32: parts of dotted parameter names whose parameters stay fp32 when the model is
            loaded in a half precision.
    """

    @property
    def name(self) -> str:
        """Registry name."""
        ...

    @property
    def summary(self) -> str:
        """One line for listings."""
        ...

    @property
    def keep_in_fp32(self) -> tuple[str, ...]:
        """Parts of dotted names whose parameters stay fp32 in a half-precision model."""
        ...

    def build(self) -> Backbone:
        """The model, initialised by torch's global generator on torch's default device.

        That device is ``meta`` where weights come from files: whatever is no weight (tables,
        buffers that are not persistent) must say ``device="cpu"`` when it is made.
        """
        ...

    def native_names(self, keys: Iterable[str]) -> dict[str, str]:
        """``{key in a file: name in Backbone.original_keys}`` for every format that is read.

        What was put around a model (``module.`` of DDP and the like) is gone from the keys.
        """
        ...

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """What the ``config.json`` beside the weights says otherwise than the entry."""
        ...


_MEMBERS = ("name", "summary", "keep_in_fp32", "build", "native_names", "differences")

BACKBONES: Registry[BackboneEntry] = Registry(
    "backbone",
    {
        "wan2.1-t2v-1.3b": "seqtex_backbones.wan.configs:WAN_2_1_T2V_1_3B",
        "wan2.1-t2v-14b": "seqtex_backbones.wan.configs:WAN_2_1_T2V_14B",
        "wan2.1-i2v-14b": "seqtex_backbones.wan.configs:WAN_2_1_I2V_14B",
        "wan2.2-ti2v-5b": "seqtex_backbones.wan.configs:WAN_2_2_TI2V_5B",
        "wan-tiny": "seqtex_backbones.wan.configs:WAN_TINY",
        "wan-tiny-i2v": "seqtex_backbones.wan.configs:WAN_TINY_I2V",
        "cogvideox-2b": "seqtex_backbones.cogvideox.configs:COGVIDEOX_2B",
        "cogvideox-5b": "seqtex_backbones.cogvideox.configs:COGVIDEOX_5B",
        "cogvideox-1.5-5b": "seqtex_backbones.cogvideox.configs:COGVIDEOX_1_5_5B",
        "cogvideox-tiny-2b": "seqtex_backbones.cogvideox.configs:COGVIDEOX_TINY_2B",
        "cogvideox-tiny-5b": "seqtex_backbones.cogvideox.configs:COGVIDEOX_TINY_5B",
        "cogvideox-tiny-1.5": "seqtex_backbones.cogvideox.configs:COGVIDEOX_TINY_1_5",
        "hunyuan-video": "seqtex_backbones.hunyuan_video.configs:HUNYUAN_VIDEO",
        "hunyuan-video-tiny": "seqtex_backbones.hunyuan_video.configs:HUNYUAN_VIDEO_TINY",
        "hunyuan-video-tiny-unguided": (
            "seqtex_backbones.hunyuan_video.configs:HUNYUAN_VIDEO_TINY_UNGUIDED"
        ),
        "mochi-1-preview": "seqtex_backbones.mochi.configs:MOCHI_1",
        "mochi-tiny": "seqtex_backbones.mochi.configs:MOCHI_TINY",
        "ltx-video-2b": "seqtex_backbones.ltx.configs:LTX_2B",
        "ltx-video-2b-0.9.5": "seqtex_backbones.ltx.configs:LTX_2B_0_9_5",
        "ltx-video-13b": "seqtex_backbones.ltx.configs:LTX_13B",
        "ltx-video-tiny": "seqtex_backbones.ltx.configs:LTX_TINY",
        "ltx-video-tiny-0.9.5": "seqtex_backbones.ltx.configs:LTX_TINY_0_9_5",
        "cosmos-predict1-7b-text2world": "seqtex_backbones.cosmos.configs:COSMOS_1_TEXT2WORLD_7B",
        "cosmos-predict1-14b-text2world": "seqtex_backbones.cosmos.configs:COSMOS_1_TEXT2WORLD_14B",
        "cosmos-predict2-2b-text2image": "seqtex_backbones.cosmos.configs:COSMOS_2_TEXT2IMAGE_2B",
        "cosmos-predict2-14b-text2image": "seqtex_backbones.cosmos.configs:COSMOS_2_TEXT2IMAGE_14B",
        "cosmos-predict2-2b-video2world": "seqtex_backbones.cosmos.configs:COSMOS_2_VIDEO2WORLD_2B",
        "cosmos-predict2-14b-video2world": (
            "seqtex_backbones.cosmos.configs:COSMOS_2_VIDEO2WORLD_14B"
        ),
        "cosmos-predict2.5-2b": "seqtex_backbones.cosmos.configs:COSMOS_2_5_2B",
        "cosmos-predict2.5-14b": "seqtex_backbones.cosmos.configs:COSMOS_2_5_14B",
        "cosmos-tiny": "seqtex_backbones.cosmos.configs:COSMOS_TINY",
        "cosmos-tiny-video": "seqtex_backbones.cosmos.configs:COSMOS_TINY_VIDEO",
    },
    entry_point_group="seqtex.backbones",
)


def empty_backbone(name: str | BackboneEntry, *, dtype: torch.dtype | None = None) -> Backbone:
    """A backbone without memory for its weights: all parameters on the meta device.

    Args:
        name: registry name, or an entry of your own.
        dtype: of the parameters; ``entry.keep_in_fp32`` stays fp32. fp32 by default.

    Raises:
        UsageError: unknown name, or an entry that cannot be built this way.
    """
    entry = entry_of(name)
    return _cast(_built_without_memory(entry), entry, dtype=dtype, device=None)


def load_backbone(
    name: str | BackboneEntry,
    *,
    weights: str | Path | None = None,
    seed: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> Backbone:
    """A backbone with pretrained weights, or with random ones from a seed.

    Names and shapes are compared from the files' headers before any tensor is read; tensors go
    straight to their place, so that the peak is about one copy of the model.

    Args:
        name: registry name, or an entry of your own.
        weights: see ``find_weights``. Give either this or ``seed``.
        seed: of torch's default initialisation; torch's global generator is left as it was.
        dtype: of the parameters; ``entry.keep_in_fp32`` stays fp32 in half precisions. By default
            fp32 for a seed, the files' own for weights.
        device: CPU by default.
        variant: of the files in a folder, such as ``"fp16"``; see ``find_weights``.
        local_files_only: no network for a hub id either.

    Raises:
        UsageError: unknown name, not exactly one of ``weights`` and ``seed``, weights that are no
            path, a dtype that is not floating point, or an entry that cannot be built on the meta
            device.
        WeightsError: weights that are missing, damaged, pickled, or of another model.
    """
    entry = entry_of(name)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UsageError("dtype", expected="a floating-point torch.dtype", got=repr(dtype))
    if weights is not None and not isinstance(weights, str | Path):
        raise UsageError("weights", expected="a path or a hub id", got=type(weights).__name__)
    if (weights is None) == (seed is None):
        raise UsageError(
            "load_backbone",
            expected="either weights or a seed for random ones",
            got="both" if weights is not None else "neither",
        )
    if seed is not None:
        return _cast(_seeded(entry, seed), entry, dtype=dtype, device=device)
    assert weights is not None
    source = find_weights(weights, variant=variant, local_files_only=local_files_only)
    try:
        differences = entry.differences(source.config) if source.config else []
    except UsageError as error:  # a config of another architecture
        raise WeightsError(
            str(weights), expected=f"a model like {entry.name}", got=f"its config: {error.got}"
        ) from error
    if differences:
        raise WeightsError(
            str(weights), expected=f"a model like {entry.name}", got="; ".join(differences)
        )
    backbone = _built_without_memory(entry)
    with WeightFiles(source.files) as files:
        files.unwrap()
        _fill(backbone, entry, files, dtype=dtype, device=device, subject=str(weights))
    return backbone


def native_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """The parameters of a backbone themselves, under the original model's key names."""
    return backbone.original_keys(
        backbone.shell.state_dict(keep_vars=True),
        [block.state_dict(keep_vars=True) for block in backbone.blocks],
    )


def entry_of(name: str | BackboneEntry) -> BackboneEntry:
    """The entry of a registered name, or the entry itself.

    Raises:
        UsageError: unknown name, or what is registered under it is no entry.
        MissingDependencyError: another distribution declares it and does not import.
    """
    entry = BACKBONES.get(name) if isinstance(name, str) else name
    lacking = [member for member in _MEMBERS if not hasattr(entry, member)]
    if isinstance(entry, type) or lacking:
        is_class = isinstance(entry, type)
        raise UsageError(
            f"backbone entry {name if isinstance(name, str) else entry!r}",
            expected=f"an object with {', '.join(_MEMBERS)} (see BackboneEntry)",
            got=f"{entry!r}" if is_class else f"{entry!r} without {', '.join(lacking)}",
        )
    return entry


def _built_without_memory(entry: BackboneEntry) -> Backbone:
    """The model with all its weights on the meta device, and everything else in memory."""
    remedy = "Make tables and buffers that are no weights with device='cpu'."
    try:
        with torch.device("meta"):
            backbone = entry.build()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
        raise UsageError(
            f"build() of backbone {entry.name!r}",
            expected="a model without memory for its weights (torch.device('meta'))",
            got=str(error),
            remedy=remedy,
        ) from error
    weights = {id(tensor) for tensor in native_tensors(backbone).values()}
    for module in (backbone.shell, *backbone.blocks):
        for name, buffer in module.named_buffers():
            if buffer.is_meta and id(buffer) not in weights:
                raise UsageError(
                    f"buffer {name!r} of backbone {entry.name!r}",
                    expected="values, as it is not in the files of weights",
                    got="none: it was made on the meta device",
                    remedy=remedy,
                )
    return backbone


def _seeded(entry: BackboneEntry, seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return entry.build()


def _fill(
    backbone: Backbone,
    entry: BackboneEntry,
    files: WeightFiles,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    subject: str,
) -> None:
    named = native_tensors(backbone)
    names = entry.native_names(files)
    found = {names[key]: shape for key, shape in files.shapes.items()}
    if len(found) != len(files.shapes):
        raise WeightsError(
            subject,
            expected="every tensor once",
            got=f"{len(files.shapes)} tensors under {len(found)} names",
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in named.items()}
    check_weights(f"{entry.name} weights in {subject}", wanted, found)
    table = ParameterTable([backbone.shell, *backbone.blocks])
    for key in files:
        name = names[key]
        target = stored_dtype(name, entry, dtype or files.dtypes[key])
        table.replace(named[name], files.load(key, dtype=target, device=device or "cpu"))
    _move_tables(backbone, device)


def _cast(
    backbone: Backbone,
    entry: BackboneEntry,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Backbone:
    table = ParameterTable([backbone.shell, *backbone.blocks])
    for name, tensor in native_tensors(backbone).items():
        target = stored_dtype(name, entry, dtype or tensor.dtype)
        table.replace(tensor, tensor.detach().to(device=device or tensor.device, dtype=target))
    _move_tables(backbone, device)
    return backbone


def _move_tables(backbone: Backbone, device: torch.device | str | None) -> None:
    """Buffers that are no weights go where the weights are; their dtype stays."""
    if device is None:
        return
    weights = {id(tensor) for tensor in native_tensors(backbone).values()}
    table = ParameterTable([backbone.shell, *backbone.blocks])
    for module in (backbone.shell, *backbone.blocks):
        for buffer in list(module.buffers()):
            if id(buffer) not in weights:
                table.replace(buffer, buffer.to(device))


def stored_dtype(name: str, entry: BackboneEntry, dtype: torch.dtype) -> torch.dtype:
    """What a parameter of a model in ``dtype`` is stored in: fp32 for its sensitive parts."""
    kept = not set(name.split(".")).isdisjoint(entry.keep_in_fp32)
    return torch.promote_types(dtype, torch.float32) if kept else dtype
