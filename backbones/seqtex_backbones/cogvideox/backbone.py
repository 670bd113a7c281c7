"""CogVideoX (2B, 5B, 1.5-5B) as a SeqTex backbone: text and video in one attention.

diffusers' ``CogVideoXTransformer3DModel`` is the weight container; the forward is written here,
with one noise level per frame, and with norms, modulation and gates in fp32.

Source:
    CogVideoX (arXiv 2408.06072), section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seqtex_core.adapter import BackboneSpec
from seqtex_core.rope import Interpolation, LinspaceEnd, rope_for_grid

from ..diffusers_parts.attention import LORA_TARGETS
from ..diffusers_parts.backbone import (
    DiffusersBackbone,
    ReferenceInputs,
    head_sizes,
    require_config,
)
from .block import CogVideoXBlock
from .schedule import VPSchedule, to_vp
from .shell import CogVideoXShell


class CogVideoXBackbone(DiffusersBackbone):
    """A CogVideoX transformer, taken apart.

    Version 1.5 has patches of two frames. Views and textures are single frames: each is given to
    the model twice, and the two predictions are averaged. (In training the model saw different
    noise in the two frames. Here it is the same, which fine-tuning must make up for: there is one
    ``x_sigma`` of a view, from which noise of its own for a second copy cannot be made.)

    Args:
        model: a diffusers ``CogVideoXTransformer3DModel``. Its blocks and embedders are taken over;
            do not use it on its own afterwards.
        name: registry name.
        snr_shift: of its noise schedule: 3 for the 2B model, 1 for the others.
        linspace_end: see ``CogVideoXConfig``.

    Raises:
        UsageError: an image-to-video model, which needs more inputs than SeqTex has.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "text_proj.": "patch_embed.text_proj.",
        "patch_embed.conv.": "patch_embed.proj.",
    }
    shell: CogVideoXShell

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "cogvideox",
        snr_shift: float = 1.0,
        linspace_end: LinspaceEnd = "diffusers",
    ) -> None:
        super().__init__(model)
        parts: Any = model
        config = parts.config
        _check_config(config)
        schedule = VPSchedule(snr_shift=snr_shift)
        self.shell = CogVideoXShell(model, schedule=schedule, linspace_end=linspace_end)
        self.blocks = [CogVideoXBlock(block) for block in parts.transformer_blocks]
        self.spec = BackboneSpec(
            name=name,
            **head_sizes(config),
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=(1, self.shell.patch_size, self.shell.patch_size),
            text_dim=int(config.text_embed_dim),
            text_length=int(config.max_text_seq_length),
            lora_targets=LORA_TARGETS,
            joint_text=True,
        )

    def complete_reference(self, model: Any, device: torch.device) -> None:
        """No size of samples matches, so that the table of positions is made anew."""
        del device
        model.patch_embed.sample_frames = 0

    def reference_prediction(self, model: Any, inputs: ReferenceInputs) -> Tensor:
        """``v``, with one level for all frames."""
        shell = self.shell
        frames = to_vp(inputs.latents, inputs.levels).to(inputs.dtype).transpose(1, 2)
        predicted: Tensor = model(
            frames.repeat_interleave(shell.frame_repeat, dim=1),
            inputs.text,
            shell.schedule.timesteps(inputs.sigma),
            image_rotary_emb=self._reference_rope(inputs.latents),
            return_dict=False,
        )[0]
        predicted = predicted.unflatten(1, (-1, shell.frame_repeat)).mean(dim=2)
        return predicted.transpose(1, 2)

    def _reference_rope(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        spec = self.shell.rope_spec
        if spec is None:
            return None
        size = (latents.shape[2], latents.shape[3], latents.shape[4])
        grid = self.spec.grid("latents", size)
        if isinstance(spec.policy, Interpolation) and spec.policy.linspace_end == "aligned":
            ours = rope_for_grid(grid, spec).to(latents.device)  # diffusers has no such option
            return ours.cos.repeat_interleave(2, dim=1), ours.sin.repeat_interleave(2, dim=1)
        where: dict[str, Any] = {
            "crops_coords": None,
            "grid_type": "slice",
            "max_size": (grid.height, grid.width),
        }
        if isinstance(spec.policy, Interpolation):
            top, left, bottom, right = spec.policy.region(grid)
            where = {"crops_coords": ((top, left), (bottom, right))}
        tables: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(
            self.spec.head_dim,
            grid_size=(grid.height, grid.width),
            temporal_size=grid.frames,
            device=latents.device,
            **where,
        )
        return tables


def _check_config(config: Any) -> None:
    require_config(
        "CogVideoX",
        {
            "in_channels": (config.in_channels, config.out_channels),
            "use_learned_positional_embeddings": (config.use_learned_positional_embeddings, False),
            "ofs_embed_dim": (config.ofs_embed_dim or None, None),
        },
        remedy="Use the text-to-video release of the same size.",
    )
    affine = config.norm_elementwise_affine
    require_config("CogVideoX", {"norm_elementwise_affine": (affine, True)})
