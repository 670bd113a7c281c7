"""Named sizes of the LTX-Video architecture."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError
from seqtex_core.rope import GRID_SPREADS, GridSpread

from ..diffusers_parts.entry import DiffusersEntry, DiffusersSizes


@dataclass(frozen=True, kw_only=True)
class LTXConfig(DiffusersSizes):
    """Sizes of an LTX-Video transformer, under the argument names (and defaults) of diffusers.

    Args:
        num_attention_heads: attention heads.
        attention_head_dim: channels per head; even.
        num_layers: transformer blocks.
        in_channels: latent channels, read and predicted.
        caption_channels: width of the text encoder's output.
        norm_eps: of the norms before attention and feed-forward.
        attention_bias: whether queries, keys and values have a bias.
        attention_out_bias: whether the output projections have one.
        text_length: text rows that the model was trained with. This and the following are not part
            of diffusers' transformer config.
        frame_rate: frames per second, see ``PixelPositions``.
        causal_time: see ``PixelPositions``; since version 0.9.5.
        spread: see ``PixelPositions``.

    Raises:
        UsageError: a size that is not a positive whole number, heads too narrow for rotary
            positions, or an unknown spread.
    """

    of_backbone = ("text_length", "frame_rate", "causal_time", "spread")
    choices = MappingProxyType({"spread": GRID_SPREADS})

    num_attention_heads: int = 32
    attention_head_dim: int = 64
    num_layers: int = 28
    in_channels: int = 128
    caption_channels: int = 4096
    norm_eps: float = 1e-6
    attention_bias: bool = True
    attention_out_bias: bool = True
    text_length: int = 128
    frame_rate: float = 25.0
    causal_time: bool = False
    spread: GridSpread = "extrapolate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_head_dim % 2 or self.dim < 6:
            raise UsageError(
                "attention_head_dim",
                expected="an even number, all heads together at least 6",
                got=str(self.attention_head_dim),
            )
        if not self.frame_rate > 0:
            raise UsageError("frame_rate", expected="a positive number", got=str(self.frame_rate))

    @property
    def dim(self) -> int:
        """Width of all heads."""
        return self.num_attention_heads * self.attention_head_dim

    def implied(self) -> dict[str, Any]:
        """Arguments of the diffusers class that follow from the sizes, or that all models have."""
        return {
            "out_channels": self.in_channels,
            "cross_attention_dim": self.dim,
            "patch_size": 1,
            "patch_size_t": 1,
            "norm_elementwise_affine": False,
            "qk_norm": "rms_norm_across_heads",
            "activation_fn": "gelu-approximate",
        }


@dataclass(frozen=True, kw_only=True)
class LTXEntry(DiffusersEntry[LTXConfig]):
    """A named LTX-Video model."""

    family = "LTX-Video"
    diffusers_class = "LTXVideoTransformer3DModel"
    sizes = LTXConfig

    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device."""
        from .backbone import LTXBackbone

        return LTXBackbone(self.new_transformer(), name=self.name, **self.config.to_backbone())


ltx_entry = LTXEntry.of_sizes
"""An entry of one's own from plain data."""


LTX_2B = LTXEntry(
    name="ltx-video-2b",
    summary="LTX-Video 0.9.0 and 0.9.1, 2B: 128 latent channels, 32x smaller than pixels",
    config=LTXConfig(),
)
LTX_2B_0_9_5 = LTXEntry(
    name="ltx-video-2b-0.9.5",
    summary="LTX-Video 0.9.5 and later, 2B: the first frame counts as one",
    config=LTXConfig(text_length=256, causal_time=True),
)
LTX_13B = LTXEntry(
    name="ltx-video-13b",
    summary="LTX-Video 0.9.7 and later, 13B",
    config=LTXConfig(attention_head_dim=128, num_layers=48, text_length=256, causal_time=True),
)


def _tiny(name: str, **changes: Any) -> LTXEntry:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 20,  # 40 = 6 * 6 + 4: two pairs do not turn
        "num_layers": 2,
        "in_channels": 12,
        "caption_channels": 20,
        "text_length": 8,
    }
    return LTXEntry(
        name=name,
        summary="two narrow LTX-Video blocks for tests; there are no trained weights",
        config=LTXConfig(**(sizes | changes)),
    )


LTX_TINY = _tiny("ltx-video-tiny")
LTX_TINY_0_9_5 = _tiny("ltx-video-tiny-0.9.5", causal_time=True, spread="interpolate")
