"""CogVideoX (2B, 5B, 1.5-5B) as a SeqTex backbone: text and video in one attention.

diffusers' ``CogVideoXTransformer3DModel`` is the weight container; the forward is written here,
with one noise level per frame, and with norms, modulation and gates in fp32.

Source:
    CogVideoX (arXiv 2408.06072), section 2.2.
"""

from __future__ import annotations

import copy
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
from seqtex_core.rope import (
    Extrapolation,
    Interpolation,
    LinspaceEnd,
    Rope,
    RopePolicy,
    RopeSpec,
    cogvideox_axis_dims,
    rope_for_grid,
    rope_table,
)

from .block import LORA_TARGETS, CogVideoXBlock, modulated_norm, wide_norm
from .positions import SinusoidalPositions
from .schedule import VPSchedule, to_vp, v_to_velocity


class LatentEmbed(nn.Module):
    """Latents to tokens, frame by frame.

    Args:
        proj: a convolution whose kernel is the patch; or (1.5) a linear layer over patches of
            ``frame_repeat`` frames, in the order ``(C, pt, ph, pw)``.
        patch_size: rows and columns of a patch.
        frame_repeat: how often a frame is repeated to fill a patch.
    """

    def __init__(self, proj: nn.Conv2d | nn.Linear, *, patch_size: int, frame_repeat: int) -> None:
        super().__init__()
        self.proj = proj
        self.patch_size = patch_size
        self.frame_repeat = frame_repeat

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of latents ``[B, C, F, H, W]``, width fastest."""
        frames = latents.transpose(1, 2)
        if isinstance(self.proj, nn.Conv2d):
            rows: Tensor = self.proj(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
            return rows.reshape(frames.shape[0], -1, rows.shape[-1])
        patch = self.patch_size
        blocks = frames.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
        blocks = blocks.permute(0, 1, 3, 5, 2, 4, 6).unsqueeze(5)
        blocks = blocks.expand(-1, -1, -1, -1, -1, self.frame_repeat, -1, -1)
        tokens: Tensor = self.proj(blocks.flatten(4).flatten(1, 3))
        return tokens


class CogVideoXShell(BackboneShell):
    """Embedders, positions, head and noise schedule of a CogVideoX model.

    Args:
        model: a diffusers ``CogVideoXTransformer3DModel``; its modules are taken over.
        schedule: the noise schedule it was trained with.
        linspace_end: see ``CogVideoXConfig``.
    """

    shareable: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "patch_embed": ("patch_embed",),
        "time_text": ("time_embedding",),
        "proj_out": ("proj_out",),
    }
    common: ClassVar[tuple[str, ...]] = ("text_proj",)

    def __init__(
        self, model: nn.Module, *, schedule: VPSchedule, linspace_end: LinspaceEnd = "diffusers"
    ) -> None:
        super().__init__()
        parts: Any = model
        config = parts.config
        self.schedule = schedule
        self.patch_size = int(config.patch_size)
        self.frame_repeat = int(config.patch_size_t or 1)
        self.patch_embed = LatentEmbed(
            parts.patch_embed.proj, patch_size=self.patch_size, frame_repeat=self.frame_repeat
        )
        self.text_proj = parts.patch_embed.text_proj
        self.time_proj = parts.time_proj
        self.time_embedding = parts.time_embedding
        self.norm_final = parts.norm_final
        self.norm_out = parts.norm_out
        self.proj_out = parts.proj_out
        self.rope_spec = _rope_spec(config, linspace_end)
        self.sinusoids: SinusoidalPositions | None = None
        if self.rope_spec is None:
            self.sinusoids = SinusoidalPositions(
                dim=int(config.num_attention_heads) * int(config.attention_head_dim),
                spatial_scale=float(config.spatial_interpolation_scale),
                temporal_scale=float(config.temporal_interpolation_scale),
            )

    def embed(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Tokens of ``x_sigma``, scaled to the variance that the model was trained with."""
        tokens: Tensor = self.patch_embed(to_vp(latents, sigma))
        return tokens

    def new_latent_embed(self) -> nn.Module:
        """A copy of the patch embedding."""
        return copy.deepcopy(self.patch_embed)

    def encode_time(self, sigma: Tensor, pooled: Tensor | None = None) -> TimeEmbedding:
        """Time MLP on the schedule's timestep of every level; the sinusoid stays fp32."""
        del pooled
        sinusoid = self.time_proj(self.schedule.timesteps(sigma).flatten())
        hidden = self.time_embedding(sinusoid.to(self.time_embedding.linear_1.weight.dtype))
        hidden = hidden.unflatten(0, sigma.shape)
        return TimeEmbedding(embedding=hidden, projected=functional.silu(hidden))

    def encode_text(
        self,
        text: Tensor,
        image: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> TextContext:
        """The text rows before the first block; padding stays in, the model was trained with it."""
        del pooled
        if image is not None:
            raise UsageError(
                "image", expected="none: this model has no image encoder", got=str(image.shape)
            )
        return TextContext(text=self.text_proj(text), mask=mask)

    def rope(self, layout: TokenLayout) -> Mapping[str, Rope] | None:
        """Rotary tables; ``None`` for the 2B model."""
        if self.rope_spec is None:
            return None
        return {str(stream): rope for stream, rope in rope_table(layout, self.rope_spec).items()}

    def position_embedding(self, layout: TokenLayout) -> Mapping[str, Tensor] | None:
        """Added sinusoids; ``None`` for models that rotate."""
        return None if self.sinusoids is None else self.sinusoids.table(layout)

    def head(self, hidden_states: Tensor, time: TimeEmbedding, rows: StreamLayout) -> Tensor:
        """Two norms in a row, modulation, projection, ``[B, L, C * patch]``, channels slowest."""
        shift, scale = self.norm_out.linear(time.projected).float().chunk(2, dim=-1)
        normed = wide_norm(hidden_states.float(), self.norm_final).type_as(hidden_states)
        normed = modulated_norm(normed, self.norm_out.norm, shift, scale, rows)
        tokens: Tensor = self.proj_out(normed)
        return tokens

    def unpatchify(self, tokens: Tensor, grid: Grid) -> Tensor:
        """``[B, C, F, H, W]``; the copies of a repeated frame are averaged."""
        blocks = tokens.unflatten(1, (grid.frames, grid.height, grid.width))
        patch = (self.frame_repeat, self.patch_size, self.patch_size)
        blocks = blocks.unflatten(-1, (-1, *patch))
        blocks = blocks[..., 0, :, :] if self.frame_repeat == 1 else blocks.mean(dim=5)
        blocks = blocks.permute(0, 4, 1, 2, 5, 3, 6)
        latents: Tensor = blocks.flatten(5, 6).flatten(3, 4)
        return latents

    def to_velocity(self, prediction: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """``u`` from ``v``."""
        return v_to_velocity(prediction, latents, sigma)


class CogVideoXBackbone(Backbone):
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

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "cogvideox",
        snr_shift: float = 1.0,
        linspace_end: LinspaceEnd = "diffusers",
    ) -> None:
        parts: Any = model
        config = parts.config
        _check_config(config)
        self.config: dict[str, Any] = dict(config)
        schedule = VPSchedule(snr_shift=snr_shift)
        shell = CogVideoXShell(model, schedule=schedule, linspace_end=linspace_end)
        self.shell = shell
        self.blocks = [CogVideoXBlock(block) for block in parts.transformer_blocks]
        heads, head_dim = int(config.num_attention_heads), int(config.attention_head_dim)
        self.spec = BackboneSpec(
            name=name,
            dim=heads * head_dim,
            num_heads=heads,
            head_dim=head_dim,
            num_blocks=len(self.blocks),
            latent_channels=int(config.out_channels),
            patch_size=(1, shell.patch_size, shell.patch_size),
            text_dim=int(config.text_embed_dim),
            text_length=int(config.max_text_seq_length),
            lora_targets=LORA_TARGETS,
            joint_text=True,
        )

    def original_keys(
        self, shell: Mapping[str, Tensor], blocks: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights under the key names of diffusers."""
        state = {
            f"patch_embed.{key}" if key.startswith("text_proj.") else key: value
            for key, value in shell.items()
        }
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
        """Velocity by the forward of diffusers, which has one level ``[B]`` for all frames.

        Raises:
            UsageError: levels per frame, an image, or a text mask.
        """
        from diffusers import CogVideoXTransformer3DModel

        given = (image, text_mask, pooled_text)
        if sigma.ndim != 1 or any(extra is not None for extra in given):
            raise UsageError(
                "reference", expected="one level per sample and text rows alone", got="others"
            )
        with torch.device("meta"):
            model = CogVideoXTransformer3DModel.from_config(self.config)
        model.patch_embed.sample_frames = 0  # no size matches: its position table is made anew
        model.load_state_dict(dict(state), strict=True, assign=True)
        dtype = state["proj_out.weight"].dtype
        shell = self.shell
        assert isinstance(shell, CogVideoXShell)
        levels = sigma[:, None].expand(-1, latents.shape[2])
        frames = to_vp(latents, levels).to(dtype).transpose(1, 2)
        frames = frames.repeat_interleave(shell.frame_repeat, dim=1)
        with torch.no_grad():
            predicted = model(
                frames,
                text.to(dtype),
                shell.schedule.timesteps(sigma),
                image_rotary_emb=self._reference_rope(latents),
                return_dict=False,
            )[0]
        predicted = predicted.unflatten(1, (-1, shell.frame_repeat)).mean(dim=2).transpose(1, 2)
        return shell.to_velocity(predicted, latents, levels)

    def _reference_rope(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        spec = getattr(self.shell, "rope_spec", None)
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
    is_image_model = (
        config.in_channels != config.out_channels
        or config.use_learned_positional_embeddings
        or config.ofs_embed_dim
    )
    if is_image_model or not config.norm_elementwise_affine:
        raise UsageError(
            "CogVideoX config",
            expected="a text-to-video model with affine norms",
            got=f"{config.in_channels} channels in, {config.out_channels} out, learned positions "
            f"{config.use_learned_positional_embeddings}, ofs_embed_dim {config.ofs_embed_dim}",
            remedy="Use the text-to-video release of the same size.",
        )


def _rope_spec(config: Any, linspace_end: LinspaceEnd) -> RopeSpec | None:
    if not config.use_rotary_positional_embeddings:
        return None
    policy: RopePolicy = Extrapolation()
    if config.patch_size_t is None:
        patch = int(config.patch_size)
        policy = Interpolation(
            base_height=int(config.sample_height) // patch,
            base_width=int(config.sample_width) // patch,
            linspace_end=linspace_end,
        )
    return RopeSpec(axis_dims=cogvideox_axis_dims(int(config.attention_head_dim)), policy=policy)
