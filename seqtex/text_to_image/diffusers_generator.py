"""What all diffusers pipelines share: loading, placing, checking and running."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from seqtex_core.errors import MissingDependencyError, UnsupportedError, UsageError, WeightsError

from ..prepare import choose_device
from .control_images import ControlImages
from .kinds import ControlKind
from .protocol import ImageDefaults, ImageSettings, OnStep
from .sources import ImageModelSpec, ModelSource

_MOST_TOKENS = 512  # the pipelines of FLUX cut there by default; the CLIP of SDXL reads 77
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusersGenerator(ABC):
    """A diffusers pipeline as a :class:`~seqtex.text_to_image.protocol.ReferenceGenerator`.

    Args:
        pipeline: loaded and placed.
        spec: what it was loaded from.
        controls: kinds of control images that it reads.
    """

    name: ClassVar[str]
    size_multiple: ClassVar[int]
    defaults: ClassVar[ImageDefaults]
    has_negative_prompt: ClassVar[bool]
    reading_tokenizer: ClassVar[str]

    def __init__(
        self, pipeline: Any, spec: ImageModelSpec, controls: tuple[ControlKind, ...]
    ) -> None:
        self.pipeline = pipeline
        self.spec = spec
        self.controls = controls

    def __call__(
        self,
        settings: ImageSettings,
        controls: ControlImages,
        *,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """See the protocol."""
        settings = self.defaults.resolve(settings)
        self._check(settings, controls.size)
        total = settings.steps

        def report(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1, int(total or 0))
            return values

        self.pipeline.set_progress_bar_config(disable=True)
        output = self.pipeline(
            prompt=settings.prompt,
            height=controls.size,
            width=controls.size,
            num_inference_steps=total,
            guidance_scale=settings.guidance,
            generator=torch.Generator().manual_seed(settings.seed),
            output_type="pt",
            callback_on_step_end=report,
            **self.arguments(settings, controls),
        )
        image: Tensor = output.images[0].detach().float().cpu()
        if not bool(image.isfinite().all()):
            raise UnsupportedError(
                f"{self.name} in {self.record()['dtype']}",
                expected="a finite image",
                got="NaN or infinity",
                remedy="Use another dtype: bfloat16 or float32.",
            )
        return image.clamp(0, 1)

    @abstractmethod
    def arguments(self, settings: ImageSettings, controls: ControlImages) -> dict[str, Any]:
        """What this pipeline's call needs beyond what all calls have."""

    def record(self) -> Mapping[str, Any]:
        """See the protocol."""
        return {
            "generator": self.name,
            "model": self.spec.model.label,
            "control_models": [control.source.label for control in self.spec.controls],
            "controls": list(self.controls),
            "dtype": str(self.pipeline.dtype).removeprefix("torch."),
            "offload": self.spec.offload,
        }

    def _check(self, settings: ImageSettings, size: int) -> None:
        if size % self.size_multiple:
            near = max(round(size / self.size_multiple), 1) * self.size_multiple
            raise UsageError(
                "image size",
                expected=f"a multiple of {self.size_multiple} for {self.name}",
                got=str(size),
                remedy=f"The nearest is {near}.",
            )
        if settings.negative_prompt and not self.has_negative_prompt:
            raise UsageError(
                "negative prompt",
                expected=f"none: {self.name} runs without classifier-free guidance",
                got=repr(settings.negative_prompt),
            )
        if settings.negative_prompt and not (settings.guidance or 0.0) > 1.0:
            raise UsageError(
                "negative prompt", expected="guidance above 1", got=str(settings.guidance)
            )
        if settings.control_scale is not None and self.defaults.control_scale is None:
            raise UsageError(
                "control scale",
                expected=f"none: {self.name} has no such setting",
                got=str(settings.control_scale),
            )
        for label, text in (("text", settings.prompt), ("negative text", settings.negative_prompt)):
            self._check_length(label, text or "")

    def _check_length(self, label: str, text: str) -> None:
        """Refuse text of which the model would not read the end."""
        tokenizer = getattr(self.pipeline, self.reading_tokenizer)
        limit = min(tokenizer.model_max_length, _MOST_TOKENS)
        count = len(tokenizer(text, verbose=False).input_ids)
        if count > limit:
            raise UsageError(
                label,
                expected=f"at most {limit} tokens, which is what {self.name} reads",
                got=f"{count}, the words added for an even picture included",
                remedy="Shorten it, or give it as it is with `seqtex reference --raw-text`.",
            )


def load_part(part: Any, source: ModelSource, spec: ImageModelSpec, **options: Any) -> Any:
    """A model or pipeline of the diffusers class ``part``; safetensors only.

    Args:
        part: class with ``from_pretrained``.
        source: where it is.
        spec: dtype and variant.
        options: passed on.

    Raises:
        WeightsError: weights that are missing, not safetensors, or of another architecture.
    """
    from safetensors import SafetensorError

    try:
        return part.from_pretrained(
            source.location,
            **{_dtype_argument(): model_dtype(spec)},
            use_safetensors=True,
            variant=spec.variant,
            local_files_only=source.folder is not None or source.local_files_only,
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"{source.what} {source.name}",
            expected=f"a {part.__name__} in safetensors",
            got=str(error).strip().split("\n", 1)[0],
        ) from error


def place(pipeline: Any, spec: ImageModelSpec) -> Any:
    """The pipeline on its device, or with the offloading that the spec asks for.

    Raises:
        UsageError: offloading without an accelerator.
        MissingDependencyError: accelerate is not installed.
    """
    device = choose_device(spec.device)
    if spec.offload == "none":
        return pipeline.to(device)
    if device.type == "cpu":
        raise UsageError(
            "--offload",
            expected="none on the CPU: there is no device memory to save",
            got=spec.offload,
        )
    if find_spec("accelerate") is None:
        raise MissingDependencyError(
            "accelerate",
            expected="an installed package, for --offload",
            got="none",
            remedy="pip install accelerate",
        )
    if spec.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline


def model_dtype(spec: ImageModelSpec) -> torch.dtype:
    """Of the weights: as named, else bfloat16 on CUDA and float32 elsewhere."""
    if spec.dtype != "auto":
        return _DTYPES[spec.dtype]
    return torch.bfloat16 if choose_device(spec.device).type == "cuda" else torch.float32


def check_width(spec: ImageModelSpec, *, part: str, key: str) -> None:
    """Refuse ControlNets whose text width is not the model's, before weights are read.

    Args:
        spec: models.
        part: folder of the network in the pipeline.
        key: of the text width in both configs.

    Raises:
        WeightsError: another width: a ControlNet for another base model.
    """
    expected = spec.model.read_json(f"{part}/config.json").get(key)
    for control in spec.controls:
        found = control.config.get(key)
        if None not in (found, expected) and found != expected:  # old configs leave it out
            raise WeightsError(
                f"--control-model {control.source.name}",
                expected=f"{key} {expected}, as {spec.model.name} has",
                got=f"{found}: made for another base model",
            )


def settings_record(settings: ImageSettings) -> dict[str, Any]:
    """Settings for manifests, those that are not set left out."""
    return {key: value for key, value in asdict(settings).items() if value is not None}


def _dtype_argument() -> str:
    """Name of the dtype argument, which 0.42 renamed."""
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"
