"""Image generators by name, and which one a pair of models needs; light to import."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeAlias

from seqtex_core.errors import MissingDependencyError, UsageError, WeightsError
from seqtex_core.registry import Registry

from .protocol import ReferenceGenerator
from .sources import ImageModelSpec

LoadGenerator: TypeAlias = Callable[[ImageModelSpec], ReferenceGenerator]

REFERENCE_GENERATORS: Registry[LoadGenerator] = Registry(
    "reference generator",
    {
        "sdxl-union": "seqtex.text_to_image.sdxl:load_sdxl_union",
        "sdxl-controlnet": "seqtex.text_to_image.sdxl:load_sdxl_controlnet",
        "flux-controlnet": "seqtex.text_to_image.flux:load_flux_controlnet",
        "flux-control": "seqtex.text_to_image.flux:load_flux_control",
    },
    entry_point_group="seqtex.reference_generators",
)
_CONTROL_CLASSES = {
    "SDXL": ("ControlNetModel", "ControlNetUnionModel", "ControlNetModel_Union"),
    "FLUX": ("FluxControlNetModel",),
}


def choose_generator(spec: ImageModelSpec) -> str:
    """Name of the generator for a spec, from the models' configs; no weights are read.

    Raises:
        WeightsError: a model that is not there, or of no known kind.
        UsageError: ControlNets that are missing, or that do not go with the model.
    """
    if spec.generator != "auto":
        if spec.generator not in REFERENCE_GENERATORS:
            REFERENCE_GENERATORS.get(spec.generator)  # raises, with the known names
        return spec.generator
    name = spec.class_name
    if name.startswith("StableDiffusionXL"):
        _check_controls(spec, "SDXL")
        return _sdxl(spec)
    if name.startswith("FluxControl") and not name.startswith("FluxControlNet"):
        return _flux_control(spec)
    if name in ("FluxPipeline", "FluxControlNetPipeline"):
        _check_controls(spec, "FLUX")
        return "flux-controlnet"
    raise WeightsError(
        f"--image-model {spec.model.name}",
        expected="an SDXL or FLUX pipeline",
        got=f"a {name}",
        remedy="Others can be registered: see seqtex.text_to_image.registry.",
    )


def load_generator(spec: ImageModelSpec) -> ReferenceGenerator:
    """The generator of a spec, with its weights.

    Raises:
        WeightsError: weights that are missing, not safetensors, or do not fit each other.
        UsageError: ControlNets that are missing, or that do not go with the model.
        MissingDependencyError: transformers or accelerate is not installed.
    """
    name = choose_generator(spec)
    if find_spec("transformers") is None:
        raise MissingDependencyError(
            "transformers",
            expected="an installed package, for image models",
            got="none",
            remedy="pip install transformers sentencepiece",
        )
    from .quiet import quiet_loading

    with quiet_loading():
        return REFERENCE_GENERATORS.get(name)(spec)


def _sdxl(spec: ImageModelSpec) -> str:
    unions = sum(control.is_union for control in spec.controls)
    if unions == 0:
        return "sdxl-controlnet"
    if len(spec.controls) == 1:
        return "sdxl-union"
    raise UsageError(
        "--control-model",
        expected="one union ControlNet, or several that read one kind each",
        got=f"{unions} union of {len(spec.controls)}",
    )


def _flux_control(spec: ImageModelSpec) -> str:
    if spec.controls:
        raise UsageError(
            "--control-model",
            expected=f"none: a {spec.class_name} reads the depth itself",
            got=spec.controls[0].source.name,
        )
    return "flux-control"


def _check_controls(spec: ImageModelSpec, family: str) -> None:
    known = _CONTROL_CLASSES[family]
    if not spec.controls:
        example = (
            "xinsir/controlnet-union-sdxl-1.0"
            if family == "SDXL"
            else "Shakker-Labs/FLUX.1-dev-ControlNet-Depth"
        )
        raise UsageError(
            "--control-model",
            expected=f"a ControlNet for {family}: without one the image does not fit the mesh",
            got="none",
            remedy=f"Name a folder or a hub id, such as {example}.",
        )
    for control in spec.controls:
        if control.class_name not in known:
            raise UsageError(
                f"--control-model {control.source.name}",
                expected=f"a ControlNet for {family} ({' or '.join(known[:2])})",
                got=f"a {control.class_name}",
            )
