"""What a doubled model refuses: backbones that break the contract, inputs that do not fit.

Nothing here reads a value from a GPU or runs inside a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .adapter import Backbone, BackboneBlock
from .branch_data import StepCache, WeightVersions
from .checks import (
    check_device,
    check_floating,
    check_levels,
    check_mapping,
    check_shape,
    check_type,
)
from .decoupled_config import DecoupledConfig
from .errors import UsageError
from .frames import Stream, TokenLayout
from .geometry_embedding import GeometryLatents
from .lora import LoRALinear
from .packed_layout import AnyLayout, PackedLayout

if TYPE_CHECKING:
    from .transformer import SeqTexTransformer


def check_backbone(backbone: Backbone, config: DecoupledConfig) -> None:
    """Refuse a backbone that cannot be doubled as ``config`` says.

    Raises:
        UsageError: no ``Backbone``, parts to share that it does not declare, adapter targets that
            no block has, one that has adapters already, or a copy head for tokens of more than one
            latent texel.
    """
    check_type("backbone", backbone, Backbone, remedy="See backbones/README.md.")
    check_type("config", config, DecoupledConfig)
    if config.uv_branch == "copy":
        _check_shares(backbone, config.uv_share)
    if config.mv_train == "lora":
        _check_targets(backbone)
    if config.copy is not None and tuple(backbone.spec.patch_size) != (1, 1, 1):
        raise UsageError(
            "copy",
            expected="a backbone with tokens of one latent texel, for a copy head",
            got=f"patches of {tuple(backbone.spec.patch_size)}",
            remedy="Leave the head out: copy = None ('none' in a training config).",
        )


def _check_shares(backbone: Backbone, share: frozenset[str]) -> None:
    """Parts that would be copied although the config says shared."""
    missing = sorted(share - {"cross_attn"} - set(backbone.shell.shareable))
    if "cross_attn" in share and any(_hides_cross_attention(b) for b in backbone.blocks):
        missing.append("cross_attn")
    if missing:
        name = backbone.spec.name
        raise UsageError(
            "uv_share",
            expected=f"parts that {name} declares in `shareable` of its shell and blocks",
            got=f"{', '.join(missing)}, which it does not",
            remedy="Declare them there, or leave them out of uv_share.",
        )


def _hides_cross_attention(block: BackboneBlock) -> bool:
    has = type(block).cross_key_values is not BackboneBlock.cross_key_values
    return has and "cross_attn" not in block.shareable


def _check_targets(backbone: Backbone) -> None:
    found: set[str] = set()
    for block in backbone.blocks:
        targets = block.own_lora_targets(backbone.spec)
        if any(isinstance(block.get_submodule(name), LoRALinear) for name in targets):
            raise UsageError(
                "backbone",
                expected="one without adapters",
                got=f"{backbone.spec.name} taken over by another SeqTexTransformer",
                remedy="Make a second one.",
            )
        found.update(targets)
    if missing := sorted(set(backbone.spec.lora_targets) - found):
        raise UsageError(
            f"lora_targets of {backbone.spec.name}",
            expected="names of layers inside a block",
            got=f"{', '.join(map(repr, missing))}, which no block has",
        )


def check_object(
    layout: AnyLayout, geometry: Mapping[str, GeometryLatents], backbone: Backbone
) -> None:
    """Refuse a layout or geometry maps that a model cannot take.

    Raises:
        UsageError: no layout or one without an mv group, geometry for some groups only, of another
            kind or of another size than the layout.
    """
    if not isinstance(layout, TokenLayout | PackedLayout):
        raise UsageError(
            "layout",
            expected="a TokenLayout or PackedLayout",
            got=type(layout).__name__,
            remedy="`layout` of the model makes one from latent sizes.",
        )
    if "mv" not in layout.streams:
        raise UsageError("layout", expected="a group in the mv stream", got="none")
    check_mapping("geometry", geometry, of="GeometryLatents")
    names, spec = [group.name for group in layout.groups], backbone.spec
    if geometry and set(geometry) != set(names):
        raise UsageError(
            "geometry", expected=f"maps of all groups {names}", got=str(sorted(geometry))
        )
    for name, maps in geometry.items():
        subject = f"geometry of {name!r}"
        check_type(subject, maps, GeometryLatents)
        shape = (None, spec.latent_channels, *spec.latent_size(layout.group(name).grid))
        check_shape(subject, maps.position, shape, "B C F H W")


def check_batches(layout: AnyLayout, geometry: Mapping[str, GeometryLatents], batch: int) -> None:
    """Refuse samples of another number than those of the text.

    Raises:
        UsageError: packed samples or geometry maps of another number.
    """
    if isinstance(layout, PackedLayout) and layout.num_samples != batch:
        raise UsageError(
            "layout", expected=f"{batch} samples, as the text", got=str(layout.num_samples)
        )
    for name, maps in geometry.items():
        if maps.position.shape[0] not in (1, batch):
            raise UsageError(
                f"geometry of {name!r}",
                expected=f"batch 1 or {batch}, as the text (batch_size without one)",
                got=f"batch {maps.position.shape[0]}",
            )


def check_step(
    latents: Mapping[str, Tensor],
    sigmas: Mapping[str, Tensor],
    cache: StepCache,
    model: SeqTexTransformer,
) -> list[Stream]:
    """The streams present in ``latents``, after everything was found to fit.

    Raises:
        UsageError: see ``SeqTexTransformer.forward``.
    """
    check_type("cache", cache, StepCache, remedy="`prepare` of the model makes one.")
    check_mapping("latents", latents)
    check_mapping("sigmas", sigmas)
    present = [
        stream
        for stream, rows in cache.layout.streams.items()
        if any(group.name in latents for group in rows.groups)
    ]
    groups = [group for group in cache.layout.groups if group.stream in present]
    wanted = {group.name for group in groups}
    if wanted != set(latents) or wanted != set(sigmas) or "mv" not in present:
        raise UsageError(
            "latents",
            expected="latents and sigmas of all groups of a stream, mv at least: "
            f"{[group.name for group in groups]}",
            got=f"latents of {sorted(latents)}, sigmas of {sorted(sigmas)}",
        )
    text, spec = cache.branches["mv"].context.text, model.spec
    for group in groups:
        size = spec.latent_size(group.grid)
        x, x_name = latents[group.name], f"latents[{group.name!r}]"
        sigma, sigma_name = sigmas[group.name], f"sigmas[{group.name!r}]"
        check_shape(x_name, x, (text.shape[0], spec.latent_channels, *size), "B C F H W")
        check_floating(x_name, x)
        check_shape(sigma_name, sigma, (text.shape[0], size[0]), "B F")
        check_levels(sigma_name, sigma)
        for name, tensor in ((x_name, x), (sigma_name, sigma)):
            check_device(name, tensor, text.device)
    _check_weights(cache, model)
    return present


def weight_versions(model: SeqTexTransformer) -> WeightVersions | None:
    """How often the weights between the maps and the first block were written to, and their dtype.

    Those of the other blocks change with them, and asking all would take longer than the rest of
    a step's checks. ``None`` where writes are not counted: sharded weights, and those made in
    inference mode.
    """
    first = next(model.muv_blocks())
    weights = [*model.geometry.parameters(), first.geometry_caster.weight]
    if torch.compiler.is_compiling() or not all(_is_counted(weight) for weight in weights):
        return None
    return tuple((weight._version, weight.dtype) for weight in weights)


def _is_counted(weight: Tensor) -> bool:
    return type(weight) is nn.Parameter and not weight.is_inference()


def _check_weights(cache: StepCache, model: SeqTexTransformer) -> None:
    """A cache is of the weights that it was made with, and of their graph."""
    learns = torch.is_grad_enabled() and _any_learns(model.parameters())
    if learns and not cache.with_gradients:
        raise UsageError(
            "cache",
            expected="one that was prepared with gradients on",
            got="one prepared without: geometry and text would not learn",
            remedy="Call prepare in every training step, outside torch.no_grad(); to sample, call "
            "the model inside it.",
        )
    versions = weight_versions(model)
    if cache.versions is not None and versions is not None and versions != cache.versions:
        raise UsageError(
            "cache",
            expected="one of the weights as they are",
            got="one from before they changed",
            remedy="Call prepare again.",
        )


def _any_learns(parameters: Iterable[nn.Parameter]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)
