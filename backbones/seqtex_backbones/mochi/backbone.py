"""Mochi 1 as a SeqTex backbone: video and a narrower text stream in one attention.

diffusers' ``MochiTransformer3DModel`` is the weight container; the forward is written here, with
one noise level per frame, and with norms, modulation and gates in fp32. The model's time is
``1 - sigma``, and it predicts ``x0 - eps``.

Source:
    Mochi 1 (Genmo, 2024: AsymmDiT); diffusers' implementation for details.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from seqtex_core.adapter import BackboneSpec

from ..diffusers_parts.attention import LORA_TARGETS
from ..diffusers_parts.backbone import (
    DiffusersBackbone,
    ReferenceInputs,
    head_sizes,
    require_config,
)
from .block import MochiBlock, MochiLastBlock
from .shell import MochiShell, model_time


class MochiBackbone(DiffusersBackbone):
    """A Mochi transformer, taken apart.

    Args:
        model: a diffusers ``MochiTransformer3DModel``. Its blocks and embedders are taken over; do
            not use it on its own afterwards.
        name: registry name.

    Raises:
        UsageError: other channels out than in.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "positions.": "",
        "patch_embed.conv.": "patch_embed.proj.",
    }

    def __init__(self, model: nn.Module, *, name: str = "mochi") -> None:
        super().__init__(model)
        parts: Any = model
        config = parts.config
        channels = int(config.in_channels)
        require_config("Mochi", {"out_channels": (config.out_channels or channels, channels)})
        self.shell = MochiShell(model)
        *first, last = parts.transformer_blocks
        self.blocks = [*(MochiBlock(block) for block in first), MochiLastBlock(last)]
        self.spec = BackboneSpec(
            name=name,
            **head_sizes(config),
            num_blocks=len(self.blocks),
            latent_channels=channels,
            patch_size=(1, int(config.patch_size), int(config.patch_size)),
            text_dim=int(config.text_embed_dim),
            text_length=int(config.max_sequence_length),
            lora_targets=LORA_TARGETS,
            joint_text=True,
            masks_text=True,
        )

    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """``x0 - eps``, with one level for all frames.

        Hidden rows of text must come last: diffusers puts the others in front of them.
        """
        predicted: Tensor = model(
            inputs.latents.to(inputs.dtype),
            inputs.text,
            model_time(inputs.sigma),
            inputs.text_shown(),
            return_dict=False,
        )[0]
        return predicted
