"""Named sizes of the Cosmos architecture."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from seqtex_core.adapter import Backbone
from seqtex_core.rope import GRID_SPREADS, GridSpread

from ..diffusers_parts.entry import DiffusersEntry, DiffusersSizes
from .positions import CosmosPositions
from .schedule import CosmosSchedule, Objective

_TRIPLES = ("max_size", "patch_size", "rope_scale")


@dataclass(frozen=True, kw_only=True)
class CosmosConfig(DiffusersSizes):
    """Sizes of a Cosmos transformer, under the argument names (and defaults) of diffusers.

    Args:
        num_attention_heads: attention heads.
        attention_head_dim: channels per head; even, at least 12.
        num_layers: transformer blocks.
        in_channels: latent channels read; one more than ``out_channels`` in video models.
        out_channels: latent channels predicted.
        mlp_ratio: inner width of the feed-forward network, in widths of the residual stream.
        text_embed_dim: width of the text that the blocks read.
        adaln_lora_dim: rank of the modulation.
        max_size: latent frames, rows and columns that learned positions exist for.
        patch_size: latent frames, rows and columns per token.
        rope_scale: see ``CosmosPositions``.
        concat_padding_mask: whether a mask of padding is one more input channel.
        extra_pos_embed_type: ``"learnable"`` adds learned positions before every block.
        use_crossattn_projection: whether the text encoder's output is projected (Predict2.5).
        crossattn_proj_in_channels: its width, if it is.
        text_length: text rows that the model was trained with. This and the following are not part
            of diffusers' transformer config.
        objective: see ``CosmosSchedule``; ``"edm"`` for Predict1.
        fps: see ``CosmosPositions``.
        spread: see ``CosmosPositions``.

    Raises:
        UsageError: a size that is not a positive whole number, or that the positions cannot have.
    """

    of_backbone = ("text_length", "objective", "fps", "spread")
    choices = MappingProxyType({"spread": GRID_SPREADS})

    num_attention_heads: int = 32
    attention_head_dim: int = 128
    num_layers: int = 28
    in_channels: int = 16
    out_channels: int = 16
    mlp_ratio: float = 4.0
    text_embed_dim: int = 1024
    adaln_lora_dim: int = 256
    max_size: tuple[int, int, int] = (128, 240, 240)
    patch_size: tuple[int, int, int] = (1, 2, 2)
    rope_scale: tuple[float, float, float] = (2.0, 1.0, 1.0)
    concat_padding_mask: bool = True
    extra_pos_embed_type: str | None = "learnable"
    use_crossattn_projection: bool = False
    crossattn_proj_in_channels: int = 1024
    text_length: int = 512
    objective: Objective = "flow"
    fps: float | None = None
    spread: GridSpread = "extrapolate"

    def __post_init__(self) -> None:
        super().__post_init__()
        CosmosSchedule(objective=self.objective)
        CosmosPositions(head_dim=self.attention_head_dim, rope_scale=self.rope_scale, fps=self.fps)

    def implied(self) -> dict[str, Any]:
        """Arguments of the diffusers class that follow from the sizes, or that all models have."""
        return {
            "encoder_hidden_states_channels": self.text_embed_dim,
            "img_context_dim_in": None,
            "controlnet_block_every_n": None,
        }


@dataclass(frozen=True, kw_only=True)
class CosmosEntry(DiffusersEntry[CosmosConfig]):
    """A named Cosmos model."""

    family = "Cosmos"
    diffusers_class = "CosmosTransformer3DModel"
    sizes = CosmosConfig

    keep_in_fp32: tuple[str, ...] = ("learnable_pos_embed",)

    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device."""
        from .backbone import CosmosBackbone

        return CosmosBackbone(self.new_transformer(), name=self.name, **self.config.to_backbone())

    def without_effect(self) -> set[str]:
        """Sizes of parts that the model does not have."""
        ignored = set()
        if self.config.extra_pos_embed_type is None:
            ignored.add("max_size")
        if not self.config.use_crossattn_projection:
            ignored |= {"crossattn_proj_in_channels", "encoder_hidden_states_channels"}
        return ignored


cosmos_entry = CosmosEntry.of_sizes
"""An entry of one's own from plain data."""


def _named(name: str, summary: str, *, is_large: bool, **changes: Any) -> CosmosEntry:
    sizes: dict[str, Any] = {
        "num_attention_heads": 40 if is_large else 16,
        "num_layers": 36 if is_large else 28,
        "extra_pos_embed_type": None,
    }
    return CosmosEntry(name=name, summary=summary, config=CosmosConfig(**(sizes | changes)))


_PREDICT_1: dict[str, Any] = {
    "extra_pos_embed_type": "learnable",
    "objective": "edm",
    "fps": 30.0,
}
COSMOS_1_TEXT2WORLD_7B = _named(
    "cosmos-predict1-7b-text2world",
    "Cosmos Predict1 video, 7B: learned positions; latents of a VAE that SeqTex has no codec for",
    is_large=False,
    num_attention_heads=32,
    **_PREDICT_1,
)
COSMOS_1_TEXT2WORLD_14B = _named(
    "cosmos-predict1-14b-text2world",
    "Cosmos Predict1 video, 14B: learned positions; latents of a VAE that SeqTex has no codec for",
    is_large=True,
    rope_scale=(2.0, 2.0, 2.0),
    **_PREDICT_1,
)
COSMOS_2_TEXT2IMAGE_2B = _named(
    "cosmos-predict2-2b-text2image",
    "Cosmos Predict2 text-to-image, 2B, on the latents of Wan2.1",
    is_large=False,
    rope_scale=(1.0, 4.0, 4.0),
)
COSMOS_2_TEXT2IMAGE_14B = _named(
    "cosmos-predict2-14b-text2image",
    "Cosmos Predict2 text-to-image, 14B",
    is_large=True,
    rope_scale=(1.0, 4.0, 4.0),
)
COSMOS_2_VIDEO2WORLD_2B = _named(
    "cosmos-predict2-2b-video2world",
    "Cosmos Predict2 video, 2B: its extra input channel gets zeros",
    is_large=False,
    in_channels=17,
    rope_scale=(1.0, 3.0, 3.0),
    fps=16.0,
)
COSMOS_2_VIDEO2WORLD_14B = _named(
    "cosmos-predict2-14b-video2world",
    "Cosmos Predict2 video, 14B: its extra input channel gets zeros",
    is_large=True,
    in_channels=17,
    rope_scale=(20 / 24, 2.0, 2.0),
    fps=16.0,
)
_PREDICT_2_5: dict[str, Any] = {
    "in_channels": 17,
    "rope_scale": (1.0, 3.0, 3.0),
    "use_crossattn_projection": True,
    "crossattn_proj_in_channels": 100352,
}
COSMOS_2_5_2B = _named(
    "cosmos-predict2.5-2b",
    "Cosmos Predict2.5, 2B: reads all layers of a language model, projected",
    is_large=False,
    **_PREDICT_2_5,
)
COSMOS_2_5_14B = _named(
    "cosmos-predict2.5-14b",
    "Cosmos Predict2.5, 14B: reads all layers of a language model, projected",
    is_large=True,
    **_PREDICT_2_5,
)


def _tiny(name: str, **changes: Any) -> CosmosEntry:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "text_embed_dim": 20,
        "adaln_lora_dim": 6,
        "max_size": (16, 24, 24),
        "rope_scale": (1.0, 4.0, 4.0),
        "extra_pos_embed_type": None,
        "text_length": 8,
    }
    return CosmosEntry(
        name=name,
        summary="two narrow Cosmos blocks for tests; there are no trained weights",
        config=CosmosConfig(**(sizes | changes)),
    )


COSMOS_TINY = _tiny("cosmos-tiny")
COSMOS_TINY_VIDEO = _tiny(
    "cosmos-tiny-video",
    in_channels=17,
    rope_scale=(20 / 24, 2.0, 3.0),
    extra_pos_embed_type="learnable",
    objective="edm",
    use_crossattn_projection=True,
    crossattn_proj_in_channels=28,
    fps=16.0,
    spread="interpolate",
)
