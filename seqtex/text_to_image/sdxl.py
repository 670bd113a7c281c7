"""SDXL with one union ControlNet, or with a ControlNet for each kind of control image."""

from __future__ import annotations

from typing import Any

from seqtex_core.errors import UsageError

from .control_images import ControlImages
from .diffusers_generator import DiffusersGenerator, check_width, load_part, place
from .kinds import CONTROL_KINDS, ControlKind
from .protocol import ImageDefaults, ImageSettings
from .sources import ImageModelSpec

_UNION_MODES: dict[ControlKind, int] = {"depth": 1, "normal": 4}
"""Modes of xinsir/controlnet-union-sdxl-1.0: 0 pose, 1 depth, 2 soft edges, 3 lines, 4 normals,
5 segments (the release scripts of xinsir6/ControlNetPlus)."""


class SdxlUnion(DiffusersGenerator):
    """SDXL with a union ControlNet, which reads depth and normals at once."""

    name = "sdxl-union"
    size_multiple = 8
    defaults = ImageDefaults(size=1024, steps=30, guidance=5.0, control_scale=0.8)
    has_negative_prompt = True
    reading_tokenizer = "tokenizer"

    def arguments(self, settings: ImageSettings, controls: ControlImages) -> dict[str, Any]:
        """See the base class."""
        return {
            "negative_prompt": settings.negative_prompt,
            "control_image": [controls.image(kind) for kind in self.controls],
            "control_mode": [_UNION_MODES[kind] for kind in self.controls],
            "controlnet_conditioning_scale": settings.control_scale,
        }


class SdxlControlNet(DiffusersGenerator):
    """SDXL with one ControlNet per kind of control image."""

    name = "sdxl-controlnet"
    size_multiple = 8
    defaults = ImageDefaults(size=1024, steps=30, guidance=5.0, control_scale=0.6)
    has_negative_prompt = True
    reading_tokenizer = "tokenizer"

    def arguments(self, settings: ImageSettings, controls: ControlImages) -> dict[str, Any]:
        """See the base class."""
        count = len(self.controls)
        scale = settings.control_scale
        return {
            "negative_prompt": settings.negative_prompt,
            "image": _one_or_list([controls.image(kind) for kind in self.controls]),
            "controlnet_conditioning_scale": scale if count == 1 else [scale] * count,
        }


def load_sdxl_union(spec: ImageModelSpec) -> SdxlUnion:
    """SDXL and its union ControlNet.

    Raises:
        UsageError: not exactly one ControlNet, or one that knows too few kinds.
        WeightsError: weights that are missing, or that do not fit each other.
    """
    if len(spec.controls) != 1:
        raise UsageError("--control-model", expected="one union", got=str(len(spec.controls)))
    from diffusers import ControlNetUnionModel, StableDiffusionXLControlNetUnionPipeline

    check_width(spec, part="unet", key="cross_attention_dim")
    control = spec.controls[0]
    kinds = CONTROL_KINDS if control.kind is None else (control.kind,)
    network = load_part(ControlNetUnionModel, control.source, spec)
    known = int(network.config.num_control_type)
    unknown = [kind for kind in kinds if _UNION_MODES[kind] >= known]
    if unknown:
        raise UsageError(
            f"--control-model {control.source.name}",
            expected=f"a union with the modes of {', '.join(unknown)}",
            got=f"{known} modes",
        )
    pipeline = load_part(
        StableDiffusionXLControlNetUnionPipeline,
        spec.model,
        spec,
        controlnet=network,
        add_watermarker=False,
    )
    return SdxlUnion(place(pipeline, spec), spec, kinds)


def load_sdxl_controlnet(spec: ImageModelSpec) -> SdxlControlNet:
    """SDXL and its ControlNets, one kind each.

    Raises:
        UsageError: two ControlNets for one kind, or a kind that nobody said.
        WeightsError: weights that are missing, or that do not fit each other.
    """
    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

    kinds = separate_kinds(spec)
    check_width(spec, part="unet", key="cross_attention_dim")
    networks = [load_part(ControlNetModel, control.source, spec) for control in spec.controls]
    pipeline = load_part(
        StableDiffusionXLControlNetPipeline,
        spec.model,
        spec,
        controlnet=_one_or_list(networks),
        add_watermarker=False,
    )
    return SdxlControlNet(place(pipeline, spec), spec, kinds)


def separate_kinds(spec: ImageModelSpec) -> tuple[ControlKind, ...]:
    """The kind that each ControlNet reads.

    Raises:
        UsageError: none, two for one kind, or a kind that nobody said.
    """
    kinds = tuple(control.single_kind for control in spec.controls)
    if not kinds or len(set(kinds)) != len(kinds):
        raise UsageError(
            "--control-model",
            expected="one ControlNet for each kind",
            got=", ".join(kinds) or "none",
        )
    return kinds


def _one_or_list(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items
