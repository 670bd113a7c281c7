"""What a SeqTex model is, apart from its weights: one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from seqtex_core.copy_head import CopyConfig
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.frame_plan import FramePlan

from .folder import CONFIG_NAME

WEIGHTS_NAME = "model.safetensors"
CODEC_WEIGHTS_NAME = "codec.safetensors"
FORMAT = 1

TextureBase = Literal["none", "projection"]
"""What a model's texture latents are measured from: nothing, or the projection frame's latents."""

TextPadding = Literal["zero", "cut", "kept"]
"""Text rows beyond the prompt, see ``seqtex_backbones.text.Padding``."""


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """How the model is sampled unless the caller says otherwise.

    Args:
        sampler: registered name.
        steps: number of model calls.
        shift: flow shift of the noise levels.
        shared_condition_noise: keep the conditioning frames' noise over the steps instead of
            drawing it anew (the released system draws it anew).
        whole_timesteps: tell the model its noise level in whole thousandths, rounded down (as the
            released system does).
    """

    sampler: str = "unipc"
    steps: int = 30
    shift: float = 5.0
    shared_condition_noise: bool = False
    whole_timesteps: bool = False

    def applied_to(self, plan: FramePlan) -> FramePlan:
        """The plan with these defaults' way of making noise and telling noise levels."""
        return replace(
            plan,
            fresh_condition_noise=not self.shared_condition_noise,
            whole_timesteps=self.whole_timesteps,
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model: backbone, codec, how they are joined, and the sizes it was made for.

    Args:
        name: of the model.
        summary: one or two sentences for the user: what it is good and bad for.
        backbone: settings that ``seqtex_backbones`` builds the backbone from.
        codec: settings that ``seqtex_backbones`` builds the codec from.
        decoupled: how the backbone is doubled.
        task: registered task that it was trained for first of all.
        texture_base: what the texture's latents are measured from; ``"projection"`` needs a task
            with a projection frame.
        view_size: pixels of a view, square.
        uv_size: texels of the texture that the model makes, square.
        texture_size: edge of the texture that is written: the model's, enlarged, with the detail of
            the references where they show the surface. ``None`` for ``uv_size``.
        supersample: samples per pixel and axis of the views' geometry maps.
        fusion: options of :class:`seqtex.fusion.Fusion`, whose weights lie beside the model's;
            ``None`` takes the model's texture as it is.
        foreground: the model is trained on the tokens that touch the surface and on this many
            around them, see :mod:`seqtex.foreground`; ``None`` for all tokens.
        sampling: defaults of sampling.
        text_encoder: folder of the text encoder beside the config, or ``None`` without text.
        text_padding: what the rows beyond a prompt are.
        dtype: of the transformer's weights unless the caller says otherwise.
        seed: of the random weights while there are no trained ones.

    Raises:
        UsageError: a copy head for a texture that is not measured from the projection frame.
    """

    name: str
    summary: str
    backbone: Mapping[str, Any]
    codec: Mapping[str, Any]
    decoupled: DecoupledConfig = field(default_factory=DecoupledConfig)
    task: str = "img2tex"
    texture_base: TextureBase = "none"
    view_size: int = 512
    uv_size: int = 1024
    texture_size: int | None = None
    supersample: int = 4
    fusion: Mapping[str, Any] | None = None
    foreground: int | None = None
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    text_encoder: str | None = None
    text_padding: TextPadding = "zero"
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decoupled.copy is not None and self.texture_base != "projection":
            raise UsageError(
                "texture_base",
                expected="'projection' for a model with a copy head: copies are measured from it",
                got=repr(self.texture_base),
                remedy="Leave the head out: decoupled.copy = 'none' in a training config.",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        record = asdict(self)
        record["decoupled"]["uv_share"] = sorted(self.decoupled.uv_share)
        return {"format": FORMAT, **record}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, source: str) -> ModelConfig:
        """The config that ``to_json`` described.

        Raises:
            WeightsError: another format, or keys that are missing or unknown.
        """
        known = {f.name for f in fields(cls)} | {"format"}
        if record.get("format") != FORMAT or not set(record) <= known:
            unknown = sorted(set(record) - known)
            raise WeightsError(
                source,
                expected=f"a model config of format {FORMAT}",
                got=f"format {record.get('format')!r}, unknown keys {unknown}",
            )
        values = {key: value for key, value in record.items() if key != "format"}
        try:
            decoupled = dict(values.pop("decoupled", {}))
            if "uv_share" in decoupled:
                decoupled["uv_share"] = frozenset(decoupled["uv_share"])
            if decoupled.get("copy") is not None:
                decoupled["copy"] = CopyConfig(**decoupled["copy"])
            sampling = SamplingDefaults(**values.pop("sampling", {}))
            return cls(decoupled=DecoupledConfig(**decoupled), sampling=sampling, **values)
        except TypeError as error:
            raise WeightsError(
                source, expected="the keys of a model config", got=str(error)
            ) from error

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """The config in a model folder.

        Raises:
            WeightsError: no such file, or not a model config.
        """
        path = folder / CONFIG_NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"model {folder}",
                expected=f"a folder with {CONFIG_NAME} and {WEIGHTS_NAME}",
                got=str(error),
            ) from error
        if not isinstance(record, dict):
            raise WeightsError(str(path), expected="a model config", got=type(record).__name__)
        return cls.from_json(record, source=str(path))
