"""FLUX with ControlNets, and the FLUX models that read a depth image themselves."""

from __future__ import annotations

from typing import Any

from seqtex_core.errors import UsageError, WeightsError

from .control_images import ControlImages
from .diffusers_generator import DiffusersGenerator, check_width, load_part, place
from .kinds import ControlKind
from .protocol import ImageDefaults, ImageSettings
from .sdxl import separate_kinds
from .sources import ImageModelSpec

_UNION_DEPTH = 2
"""Mode of depth in InstantX's and Shakker-Labs' FLUX.1-dev-ControlNet-Union (Pro): 0 canny, 1 tile,
2 depth, 3 blur, 4 pose, 5 gray, 6 low quality (their model cards). There is none for normals."""


class FluxControlNet(DiffusersGenerator):
    """FLUX with one ControlNet per kind of control image, or a union that reads depth."""

    name = "flux-controlnet"
    size_multiple = 16
    defaults = ImageDefaults(size=1024, steps=28, guidance=3.5, control_scale=0.6)
    has_negative_prompt = False
    reading_tokenizer = "tokenizer_2"

    def arguments(self, settings: ImageSettings, controls: ControlImages) -> dict[str, Any]:
        """See the base class."""
        pictures = [controls.image(kind) for kind in self.controls]
        modes = [_UNION_DEPTH if control.is_union else None for control in self.spec.controls]
        single = len(pictures) == 1
        scale = settings.control_scale
        return {
            "control_image": pictures[0] if single else pictures,
            "control_mode": modes[0] if single else modes,
            "controlnet_conditioning_scale": scale if single else [scale] * len(pictures),
        }


class FluxControl(DiffusersGenerator):
    """FLUX.1-Depth: the depth image's latents are input channels of the transformer."""

    name = "flux-control"
    size_multiple = 16
    defaults = ImageDefaults(size=1024, steps=30, guidance=10.0, control_scale=None)
    has_negative_prompt = False
    reading_tokenizer = "tokenizer_2"

    def arguments(self, settings: ImageSettings, controls: ControlImages) -> dict[str, Any]:
        """See the base class."""
        return {"control_image": controls.image("depth")}


def load_flux_controlnet(spec: ImageModelSpec) -> FluxControlNet:
    """FLUX and its ControlNets.

    Raises:
        UsageError: two ControlNets for one kind, a kind that nobody said, or a union for normals.
        WeightsError: weights that are missing, or that do not fit each other.
    """
    from diffusers import FluxControlNetModel, FluxControlNetPipeline

    kinds = _flux_kinds(spec)
    check_width(spec, part="transformer", key="joint_attention_dim")
    networks = [load_part(FluxControlNetModel, control.source, spec) for control in spec.controls]
    pipeline = load_part(
        FluxControlNetPipeline,
        spec.model,
        spec,
        controlnet=networks[0] if len(networks) == 1 else networks,
    )
    return FluxControlNet(place(pipeline, spec), spec, kinds)


def load_flux_control(spec: ImageModelSpec) -> FluxControl:
    """A FLUX model that reads a depth image itself.

    Raises:
        WeightsError: weights that are missing, or a transformer without room for the image.
    """
    from diffusers import FluxControlPipeline

    config = spec.model.read_json("transformer/config.json")
    channels, out = config.get("in_channels"), config.get("out_channels")
    if channels is None or out is None or channels != 2 * out:
        raise WeightsError(
            f"--image-model {spec.model.name}",
            expected="a transformer with twice as many channels in as out",
            got=f"{channels} in, {out} out",
            remedy="FLUX.1-dev itself needs a ControlNet: give --control-model.",
        )
    pipeline = load_part(FluxControlPipeline, spec.model, spec)
    return FluxControl(place(pipeline, spec), spec, ("depth",))


def _flux_kinds(spec: ImageModelSpec) -> tuple[ControlKind, ...]:
    for control in spec.controls:
        if control.is_union and control.kind == "normal":
            raise UsageError(
                f"--control-model normal={control.source.name}",
                expected="depth: FLUX unions have no mode for normals",
                got="normal",
            )
    unions = [control for control in spec.controls if control.is_union]
    if unions and len(spec.controls) == 1:
        return ("depth",)
    return separate_kinds(spec)
