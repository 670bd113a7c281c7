"""Cosmos Predict1, 2 and 2.5 as a SeqTex backbone: low-rank modulation, slowed rotary positions.

diffusers' ``CosmosTransformer3DModel`` is the weight container; the forward is written here, with
norms, modulation and gates in fp32. How its noise and prediction are those of the library is in
``schedule``.

Source:
    Cosmos (arXiv 2501.03575), section 5; diffusers' implementation for the order of operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtex_core.adapter import (
    Backbone,
    BackboneShell,
    BackboneSpec,
    TextContext,
    TimeEmbedding,
)
from seqtex_core.errors import UsageError
from seqtex_core.frames import Grid, StreamLayout, TokenLayout
from seqtex_core.modulation import modulate
from seqtex_core.rope import GridSpread, Rope

from .block import LORA_TARGETS, CosmosBlock, low_rank, plain_norm
from .positions import CosmosPositions
from .schedule import CosmosSchedule, Objective


class PatchEmbed(nn.Module):
    """Latents to tokens by a linear layer over square patches of one frame.

    Args:
        proj: reads ``(C, ph, pw)``, channels slowest, without bias.
        patch_size: rows and columns of a patch.
        extra_channels: channels behind the latents, which get zeros: the padding mask (nothing is
            padding) and, in video models, the mask of frames that are given.
    """

    def __init__(self, proj: nn.Linear, *, patch_size: int, extra_channels: int) -> None:
        super().__init__()
        self.proj = proj
        self.patch_size = patch_size
        self.extra_channels = extra_channels

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        if self.extra_channels:
            latents = functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, self.extra_channels))
        patch = self.patch_size
        blocks = latents.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
        blocks = blocks.permute(0, 2, 3, 5, 1, 4, 6)
        tokens: Tensor = self.proj(blocks.flatten(4).flatten(1, 3))
        return tokens


class CosmosShell(BackboneShell):
    """Embedders, positions and head of a Cosmos model.

    Args:
        model: a diffusers ``CosmosTransformer3DModel``; its modules are taken over.
        positions: where its tokens lie.
        schedule: what it is fed and predicts.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_embed",),
        "time_text": ("time_embed", "crossattn_proj"),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("learnable_pos_embed",)

    def __init__(
        self, model: nn.Module, *, positions: CosmosPositions, schedule: CosmosSchedule
    ) -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        self.patch_size = int(config.patch_size[1])
        self.latent_channels = int(config.out_channels)
        extra = int(config.in_channels) - self.latent_channels + int(config.concat_padding_mask)
        self.patch_embed = PatchEmbed(
            parts.patch_embed.proj, patch_size=self.patch_size, extra_channels=extra
        )
        self.time_embed = parts.time_embed
        self.crossattn_proj = getattr(parts, "crossattn_proj", nn.Identity())
        self.has_learned_positions = parts.learnable_pos_embed is not None
        self.learnable_pos_embed = parts.learnable_pos_embed or nn.Identity()
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.positions = positions
        self.schedule = schedule

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``, in Predict1 scaled to unit variance."""
        tokens: Tensor = self.patch_embed(self.schedule.network_input(latents, sigma))
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding over the latent channels alone."""
        proj = self.patch_embed.proj
        inputs = self.latent_channels * self.patch_size**2
        narrow = nn.Linear(inputs, proj.out_features, bias=False).to(proj.weight)
        with torch.no_grad():
            narrow.weight.copy_(proj.weight[:, :inputs])
        return PatchEmbed(narrow, patch_size=self.patch_size, extra_channels=0)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """The normalised sinusoid of the level, and the modulation that all blocks share."""
        del pooled
        embedder = self.time_embed
        told = self.schedule.condition(sigma)
        sinusoid = embedder.time_proj(told.flatten()).unflatten(0, sigma.shape)
        sinusoid = sinusoid.to(embedder.norm.weight.dtype)
        return TimeEmbedding(
            embedding=embedder.norm(sinusoid), projected=embedder.t_embedder(sinusoid)
        )

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Text rows, projected in Predict2.5; padding stays in, the model was trained with it."""
        del pooled
        if image is not None:
            raise UsageError(
                "image", expected="none: this model has no image encoder", got=str(image.shape)
            )
        return TextContext(text=self.crossattn_proj(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Slowed rotary tables."""
        return self.positions.tables(layout)

    def position_embedding(self, layout: TokenLayout) -> Mapping[str, Tensor] | None:
        """Learned embeddings, added before every block, in models that have them."""
        if not self.has_learned_positions:
            return None
        return self.positions.learned(layout, self.learnable_pos_embed)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Final norm, modulation and projection, ``[B, L, patch * C]``, channels fastest."""
        shift, scale = low_rank(self.norm_out, time, parts=2)
        normed = plain_norm(hidden_states, self.norm_out.norm)
        normed = modulate(normed, shift, scale, rows).type_as(hidden_states)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(ph, pw, C)``."""
        blocks = tokens.unflatten(1, (grid.frames, grid.height, grid.width))
        blocks = blocks.unflatten(-1, (self.patch_size, self.patch_size, -1))
        blocks = blocks.permute(0, 6, 1, 2, 4, 3, 5)
        latents: Tensor = blocks.flatten(5, 6).flatten(3, 4)
        return latents

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """The prediction itself, or in Predict1 what is made of it."""
        return self.schedule.to_velocity(prediction, latents, sigma)


class CosmosBackbone(Backbone):
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
        parts: Any = model
        config = parts.config
        _check_config(config)
        self.config: dict[str, Any] = dict(config)
        heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
        frames, rows, columns = config.rope_scale
        positions = CosmosPositions(
            head_dim=head_dim,
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
            dim=heads * head_dim,
            num_heads=heads,
            head_dim=head_dim,
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=(1, int(config.patch_size[1]), int(config.patch_size[2])),
            text_dim=int(text_dim),
            text_length=text_length,
            lora_targets=LORA_TARGETS,
            repeats_position=config.extra_pos_embed_type is not None,
        )

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = dict(shell)
        for index, block in enumerate(blocks):
            state |= {f"transformer_blocks.{index}.{key}": value for key, value in block.items()}
        return state

    def reference_velocity(
        self,
        state: Mapping[str, Tensor],
        latents: Tensor,
        sigma: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        *,
        text_mask: Tensor | None = None,
        pooled_text: Tensor | None = None,
    ) -> Tensor:
        """Velocity by the forward of diffusers, with one level per sample or per frame.

        The padding mask is given as the last channel of the latents: the same function without
        torchvision, which diffusers resizes it with.
        """
        from diffusers import CosmosTransformer3DModel

        if any(extra is not None for extra in (image, text_mask, pooled_text)):
            raise UsageError("reference", expected="text rows alone", got="image, mask or summary")
        dtype = state["proj_out.weight"].dtype
        extra = self.config["in_channels"] - self.spec.latent_channels
        extra += int(self.config["concat_padding_mask"])
        changes = {
            "in_channels": self.spec.latent_channels + extra,
            "concat_padding_mask": False,
        }
        with torch.device("meta"):
            model = CosmosTransformer3DModel.from_config({**self.config, **changes})
        model.load_state_dict(dict(state), strict=True, assign=True)
        timestep = self.schedule.condition(sigma)
        levels = sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, latents.shape[2])
        given = self.schedule.network_input(latents, levels).to(dtype)
        with torch.no_grad():
            predicted: Tensor = model(
                functional.pad(given, (0, 0, 0, 0, 0, 0, 0, extra)),
                timestep if sigma.ndim == 1 else timestep[:, None, :, None, None],
                text.to(dtype),
                fps=self.fps,
                return_dict=False,
            )[0]
        return self.shell.to_velocity(predicted, latents, levels)


def _check_config(config: Any) -> None:
    patch = tuple(config.patch_size)
    found = {
        "img_context_dim_in": (config.img_context_dim_in, None),
        "controlnet_block_every_n": (config.controlnet_block_every_n, None),
        "patch_size": (patch, (1, patch[1], patch[1])),
        "extra_pos_embed_type": (config.extra_pos_embed_type or "learnable", "learnable"),
    }
    for name, (got, expected) in found.items():
        if got != expected:
            raise UsageError(f"{name} of the Cosmos config", expected=str(expected), got=str(got))
    if config.in_channels < config.out_channels:
        raise UsageError(
            "in_channels of the Cosmos config",
            expected=f"at least the {config.out_channels} out_channels",
            got=str(config.in_channels),
        )
