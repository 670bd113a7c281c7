"""Cosmos Predict1, 2 and 2.5 as a SeqTex backbone: low-rank modulation, slowed rotary positions.

diffusers' ``CosmosTransformer3DModel`` is the weight container; the forward is written here, with
norms, modulation and gates in fp32. How its noise and prediction are those of the library is in
``schedule``.

Source:
    Cosmos (arXiv 2501.03575), section 5; diffusers' implementation for the order of operations.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import BackboneSpec
from seqtex_core.errors import UsageError
from seqtex_core.rope import GridSpread

from ..diffusers_parts.attention import LORA_TARGETS
from ..diffusers_parts.backbone import (
    DiffusersBackbone,
    ReferenceInputs,
    head_sizes,
    require_config,
)
from .block import CosmosBlock
from .positions import CosmosPositions
from .schedule import CosmosSchedule, Objective
from .shell import CosmosShell


class CosmosBackbone(DiffusersBackbone):
    """A Cosmos transformer, taken apart.

    Args:
        model: a diffusers ``CosmosTransformer3DModel``. Its blocks and embedders are taken over; do
            not use it on its own afterwards.
        name: registry name.
        text_length: text rows that the model was trained with.
        objective: see ``CosmosSchedule``.
        fps: see ``CosmosPositions``.
        spread: see ``CosmosPositions``.

    Raises:
        UsageError: a model with image context or control residuals, with patches of several
            frames or that are not square, or which reads fewer channels than it predicts.
    """

    reference_levels_per_frame: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "cosmos",
        text_length: int = 512,
        objective: Objective = "flow",
        fps: float | None = None,
        spread: GridSpread = "extrapolate",
    ) -> None:
        super().__init__(model)
        parts: Any = model
        config = parts.config
        _check_config(config)
        sizes = head_sizes(config)
        frames, rows, columns = config.rope_scale
        positions = CosmosPositions(
            head_dim=sizes["head_dim"],
            rope_scale=(float(frames), float(rows), float(columns)),
            fps=fps,
            spread=spread,
        )
        self.fps = fps
        self.schedule = CosmosSchedule(objective=objective)
        self.shell = CosmosShell(model, positions=positions, schedule=self.schedule)
        self.blocks = [CosmosBlock(block) for block in parts.transformer_blocks]
        projects = bool(config.use_crossattn_projection)
        text_dim = config.crossattn_proj_in_channels if projects else config.text_embed_dim
        self.spec = BackboneSpec(
            name=name,
            **sizes,
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=(1, int(config.patch_size[1]), int(config.patch_size[2])),
            text_dim=int(text_dim),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            repeats_position=config.extra_pos_embed_type is not None,
        )

    def reference_config(self) -> dict[str, Any]:
        """Where the padding mask is one of the latent channels, which get zeros.

        The same function without torchvision, which diffusers resizes the mask with.
        """
        channels = self.config["in_channels"] + int(self.config["concat_padding_mask"])
        return {**self.config, "in_channels": channels, "concat_padding_mask": False}

    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """What the network predicts, with one level per sample or per frame."""
        told = self.schedule.condition(inputs.sigma)
        given = self.schedule.network_input(inputs.latents, inputs.levels).to(inputs.dtype)
        extra = model.config.in_channels - self.spec.latent_channels
        predicted: Tensor = model(
            functional.pad(given, (0, 0, 0, 0, 0, 0, 0, extra)),
            told if told.ndim == 1 else told[:, None, :, None, None],
            inputs.text,
            fps=self.fps,
            return_dict=False,
        )[0]
        return predicted


def _check_config(config: Any) -> None:
    patch = tuple(config.patch_size)
    require_config(
        "Cosmos",
        {
            "img_context_dim_in": (config.img_context_dim_in, None),
            "controlnet_block_every_n": (config.controlnet_block_every_n, None),
            "patch_size": (patch, (1, patch[1], patch[1])),
            "extra_pos_embed_type": (config.extra_pos_embed_type or "learnable", "learnable"),
        },
    )
    if config.in_channels < config.out_channels:
        raise UsageError(
            "in_channels of the Cosmos config",
            expected=f"at least the {config.out_channels} out_channels",
            got=str(config.in_channels),
        )
