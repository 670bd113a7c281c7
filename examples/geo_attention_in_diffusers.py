"""Geo-Attention and mixed-resolution positions in a live diffusers pipeline, without an adapter.

Needs ``seqtex_core`` and diffusers' own ``WanPipeline``, nothing else of this library. The pipeline
keeps its loop, its scheduler, its LoRA loading and its offloading; three things change inside its
transformer:

* Tokens. Views and a larger texture do not fit into one ``[B, C, F, H, W]``, so their patches are
  laid side by side in one strip, one patch high. The model's own patch embedding and head work on
  it unchanged, and so does the scheduler.
* Positions. ``transformer.rope`` is replaced. What it returns diffusers hands to every attention
  processor as it is: here the rotary tables and the geometry of all rows.
* Attention. Every ``attn1`` gets a processor that adds geometry to queries and keys. Views attend
  to views; texture rows attend to everything.

A frame's own noise level works too: this model accepts a timestep per token, and a hook in front of
the forward replaces the pipeline's single one.

What this path cannot do, and an adapter can:

* The texture has no weights of its own. A processor sees attention only, so that norms, modulation
  tables and feed-forward are shared; the views' output stays what it was all the same.
* diffusers builds one modulation row per token, not per frame: 302 MB a block for 4096 + 4096
  tokens of Wan 1.3B. A model whose forward takes one timestep (CogVideoX) has one level only.
* Geometry is cast, and text keys are computed, anew in every step.
* Frames that condition pass through the scheduler as well; what comes out of it is put right by
  ``Scene.finish``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from seqtex_core import (
    FrameGroup,
    FramePlan,
    GeometryLatents,
    Grid,
    Placement,
    Role,
    Rope,
    RopeSpec,
    TokenLayout,
    add_noise,
    geo_attention,
    rope_table,
    wan_axis_dims,
)

Patch = tuple[int, int, int]


class Rows(NamedTuple):
    """What a processor needs to know of the token rows: views first, then texture."""

    rope: dict[str, Rope]
    geometry: Tensor | None  # embedded, [B, L, D]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One object to texture.

    Args:
        shapes: latent sizes ``(F, H, W)`` by group; views first.
        plan: the role of every frame; ``None``: all are denoised at the pipeline's level.
        clean: clean latents ``[B, C, F, H, W]`` of groups that have conditioning frames.
        geometry: encoded position and normal maps by group.
        patch: latent frames, rows and columns of a token.
        seed: of the noise on conditioning frames.
    """

    shapes: Mapping[str, tuple[int, int, int]]
    plan: FramePlan | None = None
    clean: Mapping[str, Tensor] = field(default_factory=dict)
    geometry: Mapping[str, GeometryLatents] = field(default_factory=dict)
    patch: Patch = (1, 2, 2)
    seed: int = 0

    @property
    def layout(self) -> TokenLayout:
        """The token layout: ``texture`` reads everything, all other groups read each other."""
        return TokenLayout.of(
            FrameGroup(
                name=name,
                stream="uv" if name == "texture" else "mv",
                grid=Grid(
                    frames=size[0] // self.patch[0],
                    height=size[1] // self.patch[1],
                    width=size[2] // self.patch[2],
                ),
            )
            for name, size in self.shapes.items()
        )

    def pack(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Latents of all groups as one strip of patches, ``[B, C, pt, ph, pw * L]``."""
        pt, ph, pw = self.patch
        pattern = "b c (f pt) (h ph) (w pw) -> b c pt ph (f h w pw)"
        return torch.cat(
            [rearrange(latents[name], pattern, pt=pt, ph=ph, pw=pw) for name in self.shapes], dim=-1
        )

    def unpack(self, strip: Tensor) -> dict[str, Tensor]:
        """Inverse of :meth:`pack`."""
        pw = self.patch[2]
        widths = [group.grid.num_tokens * pw for group in self.layout.groups]
        parts = zip(self.layout.groups, strip.split(widths, dim=-1), strict=True)
        pattern = "b c pt ph (f h w pw) -> b c (f pt) (h ph) (w pw)"
        return {
            group.name: rearrange(part, pattern, pw=pw, h=group.grid.height, w=group.grid.width)
            for group, part in parts
        }

    def finish(self, strip: Tensor) -> dict[str, Tensor]:
        """Latents by group of the pipeline's result, conditioning frames put back."""
        latents = self.unpack(strip)
        for name, clean in self.clean.items():
            frames = list(self._conditions(name))
            latents[name][:, :, frames] = clean[:, :, frames].to(latents[name])
        return latents

    def seen_by_model(self, strip: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The strip with conditioning frames at their own noise level; a timestep per token."""
        if self.plan is None:
            return strip, timestep
        levels = self.plan.sigmas(timestep.float() / 1000.0)  # {group: [B, F]}
        latents, generator = self.unpack(strip), torch.Generator().manual_seed(self.seed)
        per_token = []
        for group in self.layout.groups:
            level = levels[group.name]
            if group.name in self.clean:
                clean = self.clean[group.name].to(strip)
                noise = torch.randn(clean.shape, generator=generator).to(strip)
                noisy = add_noise(clean, noise, level.to(strip))
                frames = list(self._conditions(group.name))
                latents[group.name][:, :, frames] = noisy[:, :, frames]
            per_frame = level[:, :: self.patch[0]]
            per_token.append(per_frame.repeat_interleave(group.grid.tokens_per_frame, dim=1))
        return self.pack(latents), 1000.0 * torch.cat(per_token, dim=1)

    def _conditions(self, name: str) -> tuple[int, ...]:
        return () if self.plan is None else self.plan.frames_with(name, Role.CONDITION)


class MixedResolutionRope(nn.Module):
    """Stands where the model's rotary embedding was; knows the scene that is being made."""

    def __init__(self, original: nn.Module, patch: Patch, head_dim: int) -> None:
        super().__init__()
        self.original = original
        self.patch = patch
        self.spec = RopeSpec(axis_dims=wan_axis_dims(head_dim))
        self.scene: Scene | None = None
        self.geometry: Tensor | None = None

    def forward(self, latents: Tensor) -> Rows:
        """Rows of the scene, or of a plain video ``[B, C, F, H, W]`` when there is none."""
        size = (latents.shape[2], latents.shape[3], latents.shape[4])
        scene = self.scene or Scene(shapes={"views": size}, patch=self.patch)
        rope = rope_table(scene.layout, self.spec, device=latents.device)
        return Rows({str(stream): table for stream, table in rope.items()}, self.geometry)


class GeoProcessor(nn.Module):
    """Self-attention with geometry; its caster is zero at first, so that nothing changes.

    Args:
        dim: width of the model.
        like: a tensor with the device and dtype to use.
    """

    def __init__(self, dim: int, *, like: Tensor) -> None:
        super().__init__()
        self.geometry_caster = nn.Linear(dim, dim, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.geometry_caster.weight)
        nn.init.zeros_(self.geometry_caster.bias)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Rows | None = None,
    ) -> Tensor:
        """What diffusers calls; ``rotary_emb`` is what ``MixedResolutionRope`` returned.

        Not ``forward``: models that pass what a processor asks for look at this signature.
        """
        assert encoder_hidden_states is None
        assert attention_mask is None
        assert rotary_emb is not None
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(-1, (attn.heads, -1))
        k = attn.norm_k(attn.to_k(hidden_states)).unflatten(-1, (attn.heads, -1))
        v = attn.to_v(hidden_states).unflatten(-1, (attn.heads, -1))
        geometry = None
        if rotary_emb.geometry is not None:
            geometry = self.geometry_caster(rotary_emb.geometry).unflatten(-1, (attn.heads, -1))
        rows = Placement(rope=Rope.cat(list(rotary_emb.rope.values())), geometry=geometry)
        views = rotary_emb.rope["mv"].num_rows
        mv, uv = slice(0, views), slice(views, None)
        out = geo_attention(q[:, mv], k[:, mv], v[:, mv], q_placement=rows.rows(mv))
        if "uv" in rotary_emb.rope:
            place = rows.rows(uv)
            texture = geo_attention(q[:, uv], k, v, q_placement=place, k_placement=rows)
            out = torch.cat([out, texture], dim=1)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out.flatten(2)))
        return projected


class GeoWan(nn.Module):
    """Installs all of it in a ``WanTransformer3DModel``, for example ``WanPipeline.transformer``.

    The casters become part of the transformer (``blocks.0.attn1.processor.geometry_caster``); the
    two embeddings of position and normal maps, copies of the patch embedding, are held here.

    Args:
        transformer: on its device already; changed in place, :meth:`remove` undoes it.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        config, embed = transformer.config, transformer.patch_embedding
        self.transformer = transformer
        self.position_embedding = copy.deepcopy(embed)
        self.normal_embedding = copy.deepcopy(embed)
        self.rope = MixedResolutionRope(
            transformer.rope, tuple(config.patch_size), config.attention_head_dim
        )
        transformer.rope = self.rope
        self._processors = [block.attn1.processor for block in transformer.blocks]
        for block in transformer.blocks:
            block.attn1.set_processor(GeoProcessor(embed.out_channels, like=embed.weight))
        self._hook = transformer.register_forward_pre_hook(self._before, with_kwargs=True)

    def show(self, scene: Scene | None) -> None:
        """From now on the transformer gets strips of ``scene``; ``None``: plain videos again."""
        self.rope.scene, self.rope.geometry = scene, None
        if scene is None or not scene.geometry:
            return
        weight = self.position_embedding.weight
        position = scene.pack({n: g.position.to(weight) for n, g in scene.geometry.items()})
        normal = scene.pack({n: g.normal.to(weight) for n, g in scene.geometry.items()})
        tokens = self.position_embedding(position) + self.normal_embedding(normal)
        self.rope.geometry = tokens.flatten(2).transpose(1, 2)

    def remove(self) -> None:
        """Put the transformer back as it was."""
        self._hook.remove()
        self.transformer.rope = self.rope.original
        for block, processor in zip(self.transformer.blocks, self._processors, strict=True):
            block.attn1.set_processor(processor)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scene = self.rope.scene
        if scene is None:
            return None
        assert not args, "diffusers' pipelines pass everything by name"
        strip, timestep = scene.seen_by_model(kwargs["hidden_states"], kwargs["timestep"])
        return args, kwargs | {"hidden_states": strip, "timestep": timestep}


def main() -> dict[str, Tensor]:
    """A texture (of random weights) by diffusers' own ``WanPipeline``; latents by group."""
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    from seqtex_core import img2tex

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=scheduler,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)

    geo = GeoWan(pipe.transformer)  # load trained casters here
    shapes = {"views": (4, 8, 8), "texture": (1, 16, 16)}
    latents = {name: torch.randn(1, 4, *size) for name, size in shapes.items()}
    maps = {
        name: GeometryLatents(position=torch.randn(1, 4, *size), normal=torch.randn(1, 4, *size))
        for name, size in shapes.items()
    }
    reference = torch.randn(1, 4, 4, 8, 8)  # encoded views; only frame 0, the picture, is read
    scene = Scene(shapes=shapes, plan=img2tex(), clean={"views": reference}, geometry=maps)
    with torch.no_grad():
        geo.show(scene)
    result = pipe(
        prompt_embeds=torch.randn(1, 7, 16),
        latents=scene.pack(latents),
        guidance_scale=1.0,
        num_inference_steps=4,
        output_type="latent",
    )
    return scene.finish(result.frames)


if __name__ == "__main__":
    for name, made in main().items():
        print(f"{name}: latents {list(made.shape)}, std {float(made.std()):.3f}")
