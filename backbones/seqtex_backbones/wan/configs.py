"""Named sizes of the Wan architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError

from ..diffusers_parts.entry import DiffusersEntry, DiffusersSizes, differing
from .keys import diffusers_names


@dataclass(frozen=True, kw_only=True)
class WanConfig(DiffusersSizes):
    """Sizes of a Wan transformer, under the argument names of diffusers.

    Args:
        num_attention_heads: attention heads.
        attention_head_dim: channels per head; even.
        num_layers: transformer blocks.
        ffn_dim: inner width of the feed-forward network.
        in_channels: latent channels read; more than ``out_channels`` in image-to-video models.
        out_channels: latent channels predicted.
        patch_size: latent frames, rows and columns per token.
        text_dim: width of the text encoder's output.
        freq_dim: width of the sinusoid of the noise level.
        eps: of all norms.
        image_dim: width of the image encoder's output, or ``None`` without one.
        added_kv_proj_dim: width of the image tokens that the blocks read, or ``None``.
        pos_embed_seq_len: image tokens with a learned position (first-last-frame models), or
            ``None``.
        text_length: text rows that the model was trained with. Not part of diffusers' config.
        prediction: what the network itself predicts: the velocity, as all released models, or the
            clean latents, which suits narrow models with wide patches (the noise of a patch then
            need not pass through the network). Not part of diffusers' config.

    Raises:
        UsageError: a size that is not a positive whole number, an odd ``attention_head_dim``, or
            an unknown ``prediction``.
    """

    of_backbone = ("text_length", "prediction")
    choices = MappingProxyType({"prediction": ("velocity", "clean")})

    num_attention_heads: int
    attention_head_dim: int = 128
    num_layers: int
    ffn_dim: int
    in_channels: int = 16
    out_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    text_dim: int = 4096
    freq_dim: int = 256
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    pos_embed_seq_len: int | None = None
    text_length: int = 512
    prediction: Literal["velocity", "clean"] = "velocity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_head_dim % 2:
            raise UsageError(
                "attention_head_dim", expected="an even number", got=str(self.attention_head_dim)
            )

    def implied(self) -> dict[str, Any]:
        """Arguments of the diffusers class that follow from the sizes, or that all models have."""
        return {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any], *, text_length: int = 512) -> WanConfig:
        """The sizes in a diffusers ``config.json``, or in the ``config.json`` of the authors.

        Args:
            config: the parsed file; entries that it does not have take diffusers' defaults, which
                are those of the 14B model.
            text_length: see the class.

        Raises:
            UsageError: a config of another architecture.
        """
        kind = str(config.get("_class_name", "WanTransformer3DModel"))
        if kind == "WanModel":
            return cls._from_original(config)
        if kind != "WanTransformer3DModel":
            raise UsageError(
                "config.json", expected="_class_name 'WanTransformer3DModel'", got=repr(kind)
            )
        known = {field.name for field in fields(cls)} - {"text_length", "prediction"}
        given = {name: value for name, value in config.items() if name in known}
        if "patch_size" in given:
            given["patch_size"] = tuple(given["patch_size"])
        defaults = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
        return cls(**(defaults | given), text_length=text_length)

    @classmethod
    def _from_original(cls, config: Mapping[str, Any]) -> WanConfig:
        dim, heads = int(config["dim"]), int(config["num_heads"])
        has_image = config.get("model_type") in ("i2v", "flf2v") and int(config["in_dim"]) == 36
        return cls(
            num_attention_heads=heads,
            attention_head_dim=dim // heads,
            num_layers=int(config["num_layers"]),
            ffn_dim=int(config["ffn_dim"]),
            in_channels=int(config["in_dim"]),
            out_channels=int(config["out_dim"]),
            freq_dim=int(config.get("freq_dim", 256)),
            eps=float(config.get("eps", 1e-6)),
            image_dim=1280 if has_image else None,
            added_kv_proj_dim=dim if has_image else None,
            pos_embed_seq_len=514 if config.get("model_type") == "flf2v" else None,
            text_length=int(config.get("text_len", 512)),
        )


@dataclass(frozen=True, kw_only=True)
class WanEntry(DiffusersEntry[WanConfig]):
    """A named Wan model."""

    family = "Wan"
    diffusers_class = "WanTransformer3DModel"
    sizes = WanConfig

    keep_in_fp32: tuple[str, ...] = (
        "time_embedder",
        "scale_shift_table",
        "norm1",
        "norm2",
        "norm3",
    )

    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device."""
        from .backbone import WanBackbone

        return WanBackbone(self.new_transformer(), name=self.name, **self.config.to_backbone())

    def native_names(self, keys: Iterable[str]) -> dict[str, str]:
        """Keys of a file, in either format, to diffusers' names."""
        return diffusers_names(keys)

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """What a ``config.json`` says otherwise than this entry, one phrase per field."""
        theirs = WanConfig.from_diffusers(
            config, text_length=self.config.text_length
        ).to_diffusers()
        return differing(self.config.to_diffusers(), theirs)


wan_entry = WanEntry.of_sizes
"""An entry of one's own from plain data."""


WAN_2_1_T2V_1_3B = WanEntry(
    name="wan2.1-t2v-1.3b",
    summary="Wan2.1 text-to-video, 1.3B: what the released SeqTex weights are based on",
    config=WanConfig(num_attention_heads=12, num_layers=30, ffn_dim=8960),
)
WAN_2_1_T2V_14B = WanEntry(
    name="wan2.1-t2v-14b",
    summary="Wan2.1 text-to-video, 14B",
    config=WanConfig(num_attention_heads=40, num_layers=40, ffn_dim=13824),
)
WAN_2_1_I2V_14B = WanEntry(
    name="wan2.1-i2v-14b",
    summary="Wan2.1 image-to-video, 14B: reads image tokens, its extra input channels get zeros",
    config=WanConfig(
        num_attention_heads=40,
        num_layers=40,
        ffn_dim=13824,
        in_channels=36,
        image_dim=1280,
        added_kv_proj_dim=5120,
    ),
)
WAN_2_2_TI2V_5B = WanEntry(
    name="wan2.2-ti2v-5b",
    summary="Wan2.2 text-and-image-to-video, 5B: 48 latent channels, 16x smaller than pixels",
    config=WanConfig(
        num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48
    ),
)
WAN_TINY = WanEntry(
    name="wan-tiny",
    summary="two narrow Wan blocks for tests; there are no trained weights",
    config=WanConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        ffn_dim=96,
        text_dim=32,
        freq_dim=64,
        text_length=8,
    ),
)
WAN_TINY_I2V = WanEntry(
    name="wan-tiny-i2v",
    summary="like wan-tiny, with the extra channels and image tokens of image-to-video models",
    config=WanConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        ffn_dim=96,
        in_channels=36,
        text_dim=32,
        freq_dim=64,
        image_dim=20,
        added_kv_proj_dim=48,
    ),
)
