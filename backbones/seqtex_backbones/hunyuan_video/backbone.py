"""HunyuanVideo as a SeqTex backbone: dual blocks, then single blocks, text in one attention.

diffusers' ``HunyuanVideoTransformer3DModel`` is the weight container; the forward is written here,
with one noise level per frame, and with norms, modulation and gates in fp32. Only the token
refiner, which sees text alone, runs as diffusers wrote it.

Source:
    HunyuanVideo (arXiv 2412.03603), section 4.2; diffusers' implementation for details.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seqtex_core.adapter import BackboneSpec
from seqtex_core.flow_matching import model_timesteps
from seqtex_core.rope import GridSpread

from ..diffusers_parts.backbone import (
    DiffusersBackbone,
    ReferenceInputs,
    head_sizes,
    require_config,
)
from .blocks import LORA_TARGETS, DualBlock, SingleBlock
from .shell import HunyuanVideoShell


class HunyuanVideoBackbone(DiffusersBackbone):
    """A HunyuanVideo transformer, taken apart.

    Text rows lie in one attention with the others, in dual blocks with weights of their own. The
    model also reads a second encoder's summary of the text and, if it is distilled, a guidance
    scale; both are added to every noise level.

    Args:
        model: a diffusers ``HunyuanVideoTransformer3DModel``. Its blocks and embedders are taken
            over; do not use it on its own afterwards.
        name: registry name.
        text_length: text rows that the model was trained with.
        guidance: see ``HunyuanVideoShell``.
        spread: see ``HunyuanVideoShell``.

    Raises:
        UsageError: an image-to-video model, which needs more inputs than SeqTex has.
    """

    renamed: ClassVar[Mapping[str, str]] = {"x_embedder.conv.": "x_embedder.proj."}
    shell: HunyuanVideoShell

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "hunyuan-video",
        text_length: int = 256,
        guidance: float = 6.0,
        spread: GridSpread = "extrapolate",
    ) -> None:
        super().__init__(model)
        parts: Any = model
        config = parts.config
        _check_config(config)
        self.shell = HunyuanVideoShell(model, guidance=guidance, spread=spread)
        self.num_dual = len(parts.transformer_blocks)
        self.blocks = [
            *(DualBlock(block) for block in parts.transformer_blocks),
            *(SingleBlock(block) for block in parts.single_transformer_blocks),
        ]
        self.spec = BackboneSpec(
            name=name,
            **head_sizes(config),
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=(1, int(config.patch_size), int(config.patch_size)),
            text_dim=int(config.text_embed_dim),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            joint_text=True,
            masks_text=True,
            pooled_dim=int(config.pooled_projection_dim),
        )

    def block_name(self, index: int) -> str:
        """Dual blocks are one list, single blocks another."""
        if index < self.num_dual:
            return f"transformer_blocks.{index}"
        return f"single_transformer_blocks.{index - self.num_dual}"

    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """Velocity, with one level for all frames.

        Hidden rows of text must come last: diffusers only counts them.
        """
        guidance = torch.full_like(inputs.sigma, 1000.0 * self.shell.guidance)
        predicted: Tensor = model(
            inputs.latents.to(inputs.dtype),
            model_timesteps(inputs.sigma),
            inputs.text,
            inputs.text_shown(),
            inputs.pooled_text,
            guidance if self.config["guidance_embeds"] else None,
            return_dict=False,
        )[0]
        return predicted


def _check_config(config: Any) -> None:
    require_config(
        "HunyuanVideo",
        {
            "image_condition_type": (config.image_condition_type, None),
            "in_channels": (config.in_channels, config.out_channels),
        },
        remedy="Use the text-to-video release.",
    )
    fields = {"patch_size_t": (config.patch_size_t, 1), "qk_norm": (config.qk_norm, "rms_norm")}
    require_config("HunyuanVideo", fields)
