"""Wan2.1 and 2.2 (and everything with their architecture) as a SeqTex backbone.

diffusers' ``WanTransformer3DModel`` is the weight container; the forward is written here, because
diffusers has one noise level per sample and one stream.

Source:
    Wan (arXiv 2503.20314), section 4.2; diffusers' implementation for the order of roundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneSpec
from seqtex_core.errors import UsageError
from seqtex_core.flow_matching import model_timesteps

from ..diffusers_parts.backbone import (
    DiffusersBackbone,
    ReferenceInputs,
    head_sizes,
    require_config,
)
from .block import LORA_TARGETS, WanBlock
from .shell import Prediction, WanShell


class WanBackbone(DiffusersBackbone):
    """A Wan transformer, taken apart.

    Args:
        model: a diffusers ``WanTransformer3DModel``. Its blocks and embedders are taken over; do
            not use it on its own afterwards.
        name: registry name.
        text_length: text rows that the model was trained with.
        prediction: what the network predicts, the velocity or the clean latents.
    """

    renamed: ClassVar[Mapping[str, str]] = {"patch_embedding.conv.": "patch_embedding."}
    block_list: ClassVar[str] = "blocks"
    reference_levels_per_frame: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "wan",
        text_length: int = 512,
        prediction: Prediction = "velocity",
    ) -> None:
        super().__init__(model)
        parts: Any = model
        config = parts.config
        _check_config(config)
        self.prediction: Prediction = prediction
        self.shell = WanShell(model, prediction=prediction)
        self.blocks = [WanBlock(block) for block in parts.blocks]
        patch: tuple[int, int, int] = tuple(config.patch_size)
        self.spec = BackboneSpec(
            name=name,
            **head_sizes(config),
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=patch,
            text_dim=int(config.text_dim),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            image_dim=config.image_dim,
        )

    def complete_reference(self, model: Any, device: torch.device) -> None:
        """The rotary tables, which are no weights."""
        tables = int(self.config["rope_max_seq_len"])
        model.rope = type(model.rope)(self.spec.head_dim, self.spec.patch_size, tables).to(device)

    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """What the network predicts; levels per frame become timesteps per token.

        Models that read an image need one here, and 512 rows of text: diffusers tells the two
        apart by that number.
        """
        latents, timestep = inputs.latents, model_timesteps(inputs.sigma)
        if timestep.ndim == 2:
            size = (latents.shape[2], latents.shape[3], latents.shape[4])
            grid = self.spec.grid("latents", size)
            timestep = timestep.repeat_interleave(grid.tokens_per_frame, dim=1)
        extra = model.config.in_channels - self.spec.latent_channels
        padded = functional.pad(latents.to(inputs.dtype), (0, 0, 0, 0, 0, 0, 0, extra))
        predicted: Tensor = model(padded, timestep, inputs.text, inputs.image, return_dict=False)[0]
        return predicted


def _check_config(config: Any) -> None:
    require_config(
        "Wan",
        {
            "qk_norm": (config.qk_norm, "rms_norm_across_heads"),
            "cross_attn_norm": (config.cross_attn_norm, True),
        },
    )
    if config.in_channels < config.out_channels:
        raise UsageError(
            "in_channels of the Wan config",
            expected=f"at least the {config.out_channels} out_channels",
            got=str(config.in_channels),
        )
