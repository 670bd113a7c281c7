"""Named sizes of the CogVideoX architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqtex_core.adapter import Backbone
from seqtex_core.errors import UsageError
from seqtex_core.rope import LINSPACE_ENDS, LinspaceEnd

from ..diffusers_parts.entry import DiffusersEntry, DiffusersSizes

_SAMPLE_SIZE = frozenset({"sample_height", "sample_width", "sample_frames"})


@dataclass(frozen=True, kw_only=True)
class CogVideoXConfig(DiffusersSizes):
    """Sizes of a CogVideoX transformer, under the argument names (and defaults) of diffusers.

    Args:
        num_attention_heads: attention heads.
        attention_head_dim: channels per head; a multiple of 16 with rotary positions.
        num_layers: transformer blocks.
        in_channels: latent channels read.
        out_channels: latent channels predicted.
        time_embed_dim: width of the embedded noise level.
        text_embed_dim: width of the text encoder's output.
        max_text_seq_length: text rows that the model was trained with.
        sample_height: latent rows that it was trained on; fixes rotary positions of the 5B model.
        sample_width: latent columns, likewise.
        sample_frames: frames before compression, likewise; no influence here.
        patch_size: latent rows and columns per token.
        patch_size_t: latent frames per token in version 1.5, or ``None`` before it.
        patch_bias: whether the patch embedding has a bias (before 1.5; there it always has one).
        norm_eps: of the LayerNorms.
        spatial_interpolation_scale: rows and columns per unit of a sinusoidal position.
        temporal_interpolation_scale: frames per unit of a sinusoidal position.
        use_rotary_positional_embeddings: rotate queries and keys instead of adding sinusoids.
        snr_shift: of the noise schedule. This and the following are not part of diffusers'
            transformer config.
        linspace_end: where interpolated rotary positions end (5B), see
            ``seqtex_core.rope.Interpolation``: ``"diffusers"`` as the pretrained model counts them,
            which drifts apart by 0.13 tokens between views and a texture twice as fine, or
            ``"aligned"``, which lets them share coordinates.

    Raises:
        UsageError: a size that is not a positive whole number, or that the positions cannot have.
    """

    of_backbone = ("snr_shift", "linspace_end")

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    num_layers: int = 30
    in_channels: int = 16
    out_channels: int = 16
    time_embed_dim: int = 512
    text_embed_dim: int = 4096
    max_text_seq_length: int = 226
    sample_height: int = 60
    sample_width: int = 90
    sample_frames: int = 49
    patch_size: int = 2
    patch_size_t: int | None = None
    patch_bias: bool = True
    norm_eps: float = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = False
    snr_shift: float = 1.0
    linspace_end: LinspaceEnd = "diffusers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.snr_shift > 0:
            raise UsageError("snr_shift", expected="a positive number", got=str(self.snr_shift))
        rotates = self.use_rotary_positional_embeddings
        ends: tuple[str, ...] = LINSPACE_ENDS
        if not rotates or self.patch_size_t is not None:
            ends = ("diffusers",)  # nothing is interpolated
        if self.linspace_end not in ends:
            raise UsageError("linspace_end", expected=f"one of {ends}", got=repr(self.linspace_end))
        width = self.attention_head_dim * (1 if rotates else self.num_attention_heads)
        if width % 16:
            raise UsageError(
                "attention_head_dim" if rotates else "num_attention_heads * attention_head_dim",
                expected="a multiple of 16",
                got=str(width),
            )
        if self.patch_size_t is not None and not (rotates and self.patch_size_t > 0):
            raise UsageError(
                "patch_size_t",
                expected="None, or a positive number with rotary positions",
                got=str(self.patch_size_t),
            )

    def implied(self) -> dict[str, Any]:
        """Arguments of the diffusers class that follow from the sizes, or that all models have."""
        return {"use_learned_positional_embeddings": False, "ofs_embed_dim": None}


@dataclass(frozen=True, kw_only=True)
class CogVideoXEntry(DiffusersEntry[CogVideoXConfig]):
    """A named CogVideoX model."""

    family = "CogVideoX"
    diffusers_class = "CogVideoXTransformer3DModel"
    sizes = CogVideoXConfig

    def build(self) -> Backbone:
        """The model with torch's default initialisation, on the current default device."""
        from .backbone import CogVideoXBackbone

        return CogVideoXBackbone(
            self.new_transformer(), name=self.name, **self.config.to_backbone()
        )

    def without_effect(self) -> set[str]:
        """The size of the samples counts only where positions depend on it (rotary, before 1.5)."""
        if not self.config.use_rotary_positional_embeddings or self.config.patch_size_t:
            return set(_SAMPLE_SIZE)
        return {"sample_frames"}


cogvideox_entry = CogVideoXEntry.of_sizes
"""An entry of one's own from plain data."""


COGVIDEOX_2B = CogVideoXEntry(
    name="cogvideox-2b",
    summary="CogVideoX text-to-video, 2B: sinusoidal positions",
    config=CogVideoXConfig(snr_shift=3.0),
)
COGVIDEOX_5B = CogVideoXEntry(
    name="cogvideox-5b",
    summary="CogVideoX text-to-video, 5B: rotary positions, interpolated",
    config=CogVideoXConfig(
        num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True
    ),
)
COGVIDEOX_1_5_5B = CogVideoXEntry(
    name="cogvideox-1.5-5b",
    summary="CogVideoX 1.5 text-to-video, 5B: two frames per token, so every view is given twice",
    config=CogVideoXConfig(
        num_attention_heads=48,
        num_layers=42,
        sample_height=96,
        sample_width=170,
        sample_frames=81,
        patch_size_t=2,
        patch_bias=False,
        use_rotary_positional_embeddings=True,
    ),
)


def _tiny(name: str, **changes: Any) -> CogVideoXEntry:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "time_embed_dim": 24,
        "text_embed_dim": 20,
        "max_text_seq_length": 8,
        "sample_height": 12,
        "sample_width": 18,
        "sample_frames": 5,
    }
    return CogVideoXEntry(
        name=name,
        summary="two narrow CogVideoX blocks for tests; there are no trained weights",
        config=CogVideoXConfig(**(sizes | changes)),
    )


COGVIDEOX_TINY_2B = _tiny("cogvideox-tiny-2b", snr_shift=3.0)
COGVIDEOX_TINY_5B = _tiny("cogvideox-tiny-5b", use_rotary_positional_embeddings=True)
COGVIDEOX_TINY_1_5 = _tiny(
    "cogvideox-tiny-1.5",
    use_rotary_positional_embeddings=True,
    patch_size_t=2,
    patch_bias=False,
)
