"""Named sizes of the Mochi architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError

from ..diffusers_parts.entry import DiffusersEntry, DiffusersSizes

_POOLER_HEADS = 8


@dataclass(frozen=True, kw_only=True)
class MochiConfig(DiffusersSizes):
    """Sizes of a Mochi transformer, under the argument names (and defaults) of diffusers.

    Args:
        patch_size: latent rows and columns per token.
        num_attention_heads: attention heads.
        attention_head_dim: channels per head; even.
        num_layers: transformer blocks.
        pooled_projection_dim: width of the text stream.
        in_channels: latent channels, read and predicted.
        text_embed_dim: width of the text encoder's output; a multiple of 8.
        time_embed_dim: channels of the sinusoid of the noise level.
        max_sequence_length: text rows that the model was trained with.

    Raises:
        UsageError: a size that is not a positive whole number, or that heads cannot have.
    """

    patch_size: int = 2
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 48
    pooled_projection_dim: int = 1536
    in_channels: int = 12
    text_embed_dim: int = 4096
    time_embed_dim: int = 256
    max_sequence_length: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, divisor in (("attention_head_dim", 2), ("text_embed_dim", _POOLER_HEADS)):
            if getattr(self, name) % divisor:
                raise UsageError(
                    name, expected=f"a multiple of {divisor}", got=str(getattr(self, name))
                )

    def implied(self) -> dict[str, Any]:
        """Arguments of the diffusers class that follow from the sizes, or that all models have."""
        return {
            "out_channels": None,
            "qk_norm": "rms_norm",
            "activation_fn": "swiglu",
        }


@dataclass(frozen=True, kw_only=True)
class MochiEntry(DiffusersEntry[MochiConfig]):
    """A named Mochi model."""

    family = "Mochi"
    diffusers_class = "MochiTransformer3DModel"
    sizes = MochiConfig

    keep_in_fp32: tuple[str, ...] = ("pos_frequencies",)

    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device.

        The learned frequencies start at zero there: without weights no position is told apart.
        """
        from .backbone import MochiBackbone

        return MochiBackbone(self.new_transformer(), name=self.name, **self.config.to_backbone())

    def as_built(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """As many channels out as in is what nothing said means."""
        if theirs["out_channels"] == theirs["in_channels"]:
            return theirs | {"out_channels": None}
        return theirs


mochi_entry = MochiEntry.of_sizes
"""An entry of one's own from plain data."""


MOCHI_1 = MochiEntry(
    name="mochi-1-preview",
    summary="Mochi 1 preview, 10B: a narrower text stream, learned rotary frequencies",
    config=MochiConfig(),
)
MOCHI_TINY = MochiEntry(
    name="mochi-tiny",
    summary="two narrow Mochi blocks for tests; there are no trained weights",
    config=MochiConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        pooled_projection_dim=20,
        text_embed_dim=24,
        time_embed_dim=16,
        max_sequence_length=8,
    ),
)
