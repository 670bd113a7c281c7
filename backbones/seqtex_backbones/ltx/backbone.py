"""LTX-Video (2B, 13B) as a SeqTex backbone: one token per latent cell, positions in pixels.

diffusers' ``LTXVideoTransformer3DModel`` is the weight container; the forward is written here, with
one noise level per frame, and with norms, modulation and gates in fp32.

Source:
    LTX-Video (arXiv 2501.00103), section 2; diffusers' implementation for the order of operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from seqtex_core.adapter import BackboneSpec
from seqtex_core.flow_matching import model_timesteps
from seqtex_core.frames import FrameGroup, Grid
from seqtex_core.rope import Extrapolation, GridSpread

from ..diffusers_parts.attention import LORA_TARGETS
from ..diffusers_parts.backbone import (
    DiffusersBackbone,
    ReferenceInputs,
    head_sizes,
    require_config,
)
from .block import LTXBlock
from .positions import PixelPositions
from .shell import LTXShell


class LTXBackbone(DiffusersBackbone):
    """An LTX-Video transformer, taken apart.

    Args:
        model: a diffusers ``LTXVideoTransformer3DModel``. Its blocks and embedders are taken over;
            do not use it on its own afterwards.
        name: registry name.
        text_length: text rows that the model was trained with.
        frame_rate: see ``PixelPositions``.
        causal_time: see ``PixelPositions``.
        spread: see ``PixelPositions``.

    Raises:
        UsageError: a model whose norms have weights, whose tokens are packed patches, or which
            does not predict as many channels as it reads.
    """

    renamed: ClassVar[Mapping[str, str]] = {"proj_in.proj.": "proj_in."}
    reference_levels_per_frame: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "ltx",
        text_length: int = 128,
        frame_rate: float = 25.0,
        causal_time: bool = False,
        spread: GridSpread = "extrapolate",
    ) -> None:
        super().__init__(model)
        parts: Any = model
        config = parts.config
        _check_config(config)
        sizes = head_sizes(config)
        self.positions = PixelPositions(
            dim=sizes["dim"],
            num_heads=sizes["num_heads"],
            frame_rate=frame_rate,
            causal_time=causal_time,
            spread=spread,
        )
        self.shell = LTXShell(model, positions=self.positions)
        self.blocks = [LTXBlock(block) for block in parts.transformer_blocks]
        self.spec = BackboneSpec(
            name=name,
            **sizes,
            num_blocks=len(self.blocks),
            latent_channels=int(config.in_channels),
            patch_size=(1, 1, 1),
            text_dim=int(config.caption_channels),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            masks_text=True,
        )

    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """Velocity; levels per frame become timesteps per token."""
        batch, _, frames, height, width = inputs.latents.shape
        grid = Grid(frames=frames, height=height, width=width)
        timestep = model_timesteps(inputs.sigma)
        if timestep.ndim == 2:
            timestep = timestep.repeat_interleave(grid.tokens_per_frame, dim=1)
        group = FrameGroup(name="latents", stream="mv", grid=grid)
        where = self.positions.coordinates(group, 0, Extrapolation()).to(inputs.latents.device)
        mask = inputs.text_mask
        tokens: Tensor = model(
            inputs.latents.to(inputs.dtype).flatten(2).transpose(1, 2),
            inputs.text,
            timestep,
            None if mask is None else mask.to(inputs.dtype),
            video_coords=where.expand(batch, -1, -1),
            return_dict=False,
        )[0]
        return self.shell.unpatchify(tokens, grid)


def _check_config(config: Any) -> None:
    width = head_sizes(config)["dim"]
    channels = config.in_channels
    require_config(
        "LTX",
        {
            "patch_size": (config.patch_size, 1),
            "patch_size_t": (config.patch_size_t, 1),
            "out_channels": (config.out_channels or channels, channels),
            "norm_elementwise_affine": (config.norm_elementwise_affine, False),
            "cross_attention_dim": (config.cross_attention_dim, width),
        },
    )
