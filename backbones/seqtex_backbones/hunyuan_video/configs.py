"""Named sizes of the HunyuanVideo architecture."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError
from seqtex_core.rope import GRID_SPREADS, GridSpread

from ..diffusers_parts.entry import DiffusersEntry, DiffusersSizes


@dataclass(frozen=True, kw_only=True)
class HunyuanVideoConfig(DiffusersSizes):
    """Sizes of a HunyuanVideo transformer, under the argument names (and defaults) of diffusers.

    Args:
        in_channels: latent channels, read and predicted.
        num_attention_heads: attention heads.
        attention_head_dim: channels per head.
        num_layers: dual blocks, which come first.
        num_single_layers: single blocks.
        num_refiner_layers: blocks of the token refiner.
        mlp_ratio: width of the feed-forward networks over that of the residual stream.
        patch_size: latent rows and columns per token.
        guidance_embeds: the model is distilled and told a guidance scale.
        text_embed_dim: width of the text encoder's rows.
        pooled_projection_dim: width of the second encoder's summary.
        rope_theta: base of the rotary frequencies.
        rope_axes_dim: channels of a head that turn with frame, row and column.
        text_length: text rows that the model was trained with. This and the following are not part
            of diffusers' transformer config.
        guidance: the scale that a distilled model is told.
        spread: positions of groups that differ in size, see ``spread_policy``.

    Raises:
        UsageError: a size that is not a positive whole number, axes that do not fill a head, or an
            unknown spread.
    """

    of_backbone = ("text_length", "guidance", "spread")
    choices = MappingProxyType({"spread": GRID_SPREADS})

    in_channels: int = 16
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    patch_size: int = 2
    guidance_embeds: bool = True
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768
    rope_theta: float = 256.0
    rope_axes_dim: tuple[int, ...] = (16, 56, 56)
    text_length: int = 256
    guidance: float = 6.0
    spread: GridSpread = "extrapolate"

    def __post_init__(self) -> None:
        super().__post_init__()
        axes = tuple(self.rope_axes_dim)
        object.__setattr__(self, "rope_axes_dim", axes)
        if len(axes) != 3 or any(dim % 2 for dim in axes) or sum(axes) != self.attention_head_dim:
            raise UsageError(
                "rope_axes_dim",
                expected=f"three even numbers whose sum is {self.attention_head_dim}",
                got=str(axes),
            )

    def implied(self) -> dict[str, Any]:
        """Arguments of the diffusers class that follow from the sizes, or that all models have."""
        return {
            "out_channels": self.in_channels,
            "patch_size_t": 1,
            "qk_norm": "rms_norm",
            "image_condition_type": None,
        }


@dataclass(frozen=True, kw_only=True)
class HunyuanVideoEntry(DiffusersEntry[HunyuanVideoConfig]):
    """A named HunyuanVideo model."""

    family = "HunyuanVideo"
    diffusers_class = "HunyuanVideoTransformer3DModel"
    sizes = HunyuanVideoConfig

    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device."""
        from .backbone import HunyuanVideoBackbone

        return HunyuanVideoBackbone(
            self.new_transformer(), name=self.name, **self.config.to_backbone()
        )


hunyuan_video_entry = HunyuanVideoEntry.of_sizes
"""An entry of one's own from plain data."""


HUNYUAN_VIDEO = HunyuanVideoEntry(
    name="hunyuan-video",
    summary="HunyuanVideo text-to-video, 13B: text rows and a summary, distilled guidance",
    config=HunyuanVideoConfig(),
)


def _tiny(name: str, **changes: Any) -> HunyuanVideoEntry:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": 20,
        "pooled_projection_dim": 12,
        "rope_axes_dim": (4, 6, 6),
        "text_length": 8,
    }
    return HunyuanVideoEntry(
        name=name,
        summary="one narrow dual and one single HunyuanVideo block for tests; no trained weights",
        config=HunyuanVideoConfig(**(sizes | changes)),
    )


HUNYUAN_VIDEO_TINY = _tiny("hunyuan-video-tiny")
HUNYUAN_VIDEO_TINY_UNGUIDED = _tiny(
    "hunyuan-video-tiny-unguided",
    guidance_embeds=False,
    num_layers=2,
    mlp_ratio=2.0,
    spread="interpolate",
)
