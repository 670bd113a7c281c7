"""HunyuanVideo as a SeqTex backbone: dual blocks, then single blocks, text in one attention.

diffusers' ``HunyuanVideoTransformer3DModel`` is the weight container; the forward is written here,
with one noise level per frame, and with norms, modulation and gates in fp32. Only the token
refiner, which sees text alone, runs as diffusers wrote it.

Source:
    HunyuanVideo (arXiv 2412.03603), section 4.2; diffusers' implementation for details.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from seqtex_core.rope import GridSpread, Rope, RopeSpec, rope_table, spread_policy

from .blocks import LORA_TARGETS, DualBlock, SingleBlock, modulated_norm


class LatentEmbed(nn.Module):
    """Latents to tokens.

    Args:
        proj: a convolution whose kernel is the patch.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        tokens: Tensor = self.proj(latents).flatten(2).transpose(1, 2)
        return tokens


class HunyuanVideoShell(BackboneShell):
    """Embedders, token refiner, positions and head of a HunyuanVideo model.

    Args:
        model: a diffusers ``HunyuanVideoTransformer3DModel``; its modules are taken over.
        guidance: guidance scale that a distilled model is told; others are not.
        spread: positions of groups that differ in size, see ``spread_policy``.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("x_embedder",),
        "time_text": ("time_text_embed",),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("context_embedder",)

    def __init__(self, model: nn.Module, *, guidance: float, spread: GridSpread) -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        self.x_embedder = LatentEmbed(parts.x_embedder.proj)
        self.context_embedder = parts.context_embedder
        self.time_text_embed = parts.time_text_embed
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.patch_size = int(config.patch_size)
        self.guidance = guidance
        self.spread: GridSpread = spread
        frames, height, width = (int(dim) for dim in config.rope_axes_dim)
        self.rope_spec = RopeSpec(axis_dims=(frames, height, width), theta=float(config.rope_theta))

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``; rectified flow needs no rescaling."""
        del sigma
        tokens: Tensor = self.x_embedder(latents)
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding."""
        return copy.deepcopy(self.x_embedder)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on ``1000 sigma`` plus the summary of the text; the sinusoid stays fp32."""
        hidden = self._sinusoid_mlp(
            self.time_text_embed.timestep_embedder, 1000.0 * sigma.float().flatten()
        ).unflatten(0, sigma.shape)
        hidden = hidden if pooled is None else hidden + pooled.unsqueeze(1)
        return TimeEmbedding(embedding=hidden, projected=functional.silu(hidden))

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """Rows as they are, as ``initial_text`` makes something else of them at every level.

        Raises:
            UsageError: an image, no summary, or a first row that is hidden, which the token
                refiner reads all the same.
        """
        if image is not None:
            raise UsageError(
                "image", expected="none: this model has no image encoder", got=str(image.shape)
            )
        if pooled is None:
            raise UsageError("pooled_text", expected="a summary of the text", got="none")
        if mask is not None and not bool(mask[:, 0].all()):
            raise UsageError("text_mask", expected="the first row to read", got="it is hidden")
        embedder = self.time_text_embed
        added = embedder.text_embedder(pooled)
        if embedder.guidance_embedder is not None:
            scale = torch.full((1,), 1000.0 * self.guidance, device=text.device)
            added = added + self._sinusoid_mlp(embedder.guidance_embedder, scale)
        return TextContext(text=text, mask=mask, pooled=added)

    def initial_text(self, context: TextContext, sigma: Tensor) -> Tensor:
        """The refined rows, ``[B, S, D]``; the refiner reads their noise level."""
        rows: Tensor = self.context_embedder(context.text, 1000.0 * sigma[:, 0], context.mask)
        return rows

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope]:
        """Rotary tables in integer positions."""
        spec = replace(self.rope_spec, policy=spread_policy(self.spread, layout))
        return {str(stream): rope for stream, rope in rope_table(layout, spec).items()}

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Norm, modulation and projection, ``[B, L, C * patch]``, channels slowest."""
        scale, shift = self.norm_out.linear(time.projected).float().chunk(2, dim=-1)
        tokens: Tensor = self.proj_out(modulated_norm(hidden_states, shift, scale, rows))
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]`` from tokens whose vectors are ``(C, ph, pw)``."""
        blocks = tokens.unflatten(1, (grid.frames, grid.height, grid.width))
        blocks = blocks.unflatten(-1, (-1, self.patch_size, self.patch_size))
        latents: Tensor = blocks.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return latents

    def _sinusoid_mlp(self, mlp: Any, values: Tensor) -> Tensor:
        sinusoid = self.time_text_embed.time_proj(values)
        embedded: Tensor = mlp(sinusoid.to(mlp.linear_1.weight.dtype))
        return embedded


class HunyuanVideoBackbone(Backbone):
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

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "hunyuan-video",
        text_length: int = 256,
        guidance: float = 6.0,
        spread: GridSpread = "extrapolate",
    ) -> None:
        parts: Any = model
        config = parts.config
        _check_config(config)
        self.config: dict[str, Any] = dict(config)
        self.shell = HunyuanVideoShell(model, guidance=guidance, spread=spread)
        self.num_dual = len(parts.transformer_blocks)
        self.blocks = [
            *(DualBlock(block) for block in parts.transformer_blocks),
            *(SingleBlock(block) for block in parts.single_transformer_blocks),
        ]
        heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
        self.spec = BackboneSpec(
            name=name,
            dim=heads * head_dim,
            num_heads=heads,
            head_dim=head_dim,
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

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = dict(shell)
        for index, block in enumerate(blocks):
            prefix = f"transformer_blocks.{index}"
            if index >= self.num_dual:
                prefix = f"single_transformer_blocks.{index - self.num_dual}"
            state |= {f"{prefix}.{key}": value for key, value in block.items()}
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
        """Velocity by the forward of diffusers, which has one level ``[B]`` for all frames.

        Hidden rows must come last: diffusers only counts them.

        Raises:
            UsageError: levels per frame, an image, or no summary of the text.
        """
        from diffusers import HunyuanVideoTransformer3DModel

        if sigma.ndim != 1 or image is not None or pooled_text is None:
            raise UsageError(
                "reference", expected="one level per sample, a summary, no image", got="others"
            )
        with torch.device("meta"):
            model = HunyuanVideoTransformer3DModel.from_config(self.config)
        model.load_state_dict(dict(state), strict=True, assign=True)
        dtype = state["proj_out.weight"].dtype
        if text_mask is None:
            text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        shell = self.shell
        assert isinstance(shell, HunyuanVideoShell)
        guidance = torch.full_like(sigma, 1000.0 * shell.guidance)
        with torch.no_grad():
            predicted: Tensor = model(
                latents.to(dtype),
                1000.0 * sigma,
                text.to(dtype),
                text_mask,
                pooled_text.to(dtype),
                guidance if self.config["guidance_embeds"] else None,
                return_dict=False,
            )[0]
        return predicted


def _check_config(config: Any) -> None:
    from_image = config.image_condition_type is not None
    if from_image or config.in_channels != config.out_channels or config.patch_size_t != 1:
        raise UsageError(
            "HunyuanVideo config",
            expected="a text-to-video model with tokens of one frame",
            got=f"{config.in_channels} channels in, {config.out_channels} out, image condition "
            f"{config.image_condition_type!r}, patch_size_t {config.patch_size_t}",
            remedy="Use the text-to-video release.",
        )
    if config.qk_norm != "rms_norm":
        raise UsageError(
            "HunyuanVideo config", expected="qk_norm 'rms_norm'", got=repr(config.qk_norm)
        )
