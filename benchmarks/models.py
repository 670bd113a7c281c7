"""Doubled Wan models of any size for measurements: seeded, empty (meta), or in fp64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seqtex_backbones.registry import empty_backbone, load_backbone
from seqtex_backbones.wan.configs import WanConfig, WanEntry
from seqtex_core.attention import Attend
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.frames import TokenLayout
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.inference import prepare_for_inference
from seqtex_core.lora import lora_layers
from seqtex_core.transformer import SeqTexTransformer, StepCache

from .formulas import LayerSize, fixed_step_flop
from .result import Scalar

HEAD_DIM = 128
FREQ_DIM = 256
LATENT_CHANNELS = 16
PATCH_TEXELS = 4


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A model and the pictures it works on.

    Args:
        heads: attention heads of 128 channels.
        layers: MUV blocks.
        ffn_dim: inner width of the feed-forward network.
        views: number of views.
        view_tokens: rows and columns of a view's token grid.
        uv_tokens: of the texture's.
        num_text: text rows.
        lora_rank: inner width of the adapters.
    """

    heads: int = 12
    layers: int = 1
    ffn_dim: int = 8960
    views: int = 4
    view_tokens: int = 32
    uv_tokens: int = 64
    num_text: int = 512
    lora_rank: int = 128

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.heads * HEAD_DIM

    @property
    def layer(self) -> LayerSize:
        """Sizes of one layer."""
        return LayerSize(
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            num_mv=self.views * self.view_tokens**2,
            num_uv=self.uv_tokens**2,
            num_text=self.num_text,
            lora_rank=self.lora_rank,
        )

    @property
    def fixed_flop(self) -> int:
        """FLOP of a step outside the layers."""
        return self._fixed(self.layer.num_mv + self.layer.num_uv, self.views + 1)

    @property
    def fixed_views_flop(self) -> int:
        """The same without the texture."""
        return self._fixed(self.layer.num_mv, self.views)

    def parameters(self) -> dict[str, Scalar]:
        """For result rows."""
        layer = self.layer
        return {
            "dim": layer.dim,
            "layers": self.layers,
            "ffn_dim": layer.ffn_dim,
            "num_mv": layer.num_mv,
            "num_uv": layer.num_uv,
            "num_text": layer.num_text,
            "lora_rank": layer.lora_rank,
        }

    def _fixed(self, tokens: int, frames: int) -> int:
        channels = LATENT_CHANNELS * PATCH_TEXELS
        return fixed_step_flop(
            tokens, self.dim, patch_channels=channels, freq_dim=FREQ_DIM, frames=frames
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Inputs of a step.

    Args:
        layout: token layout.
        latents: noisy latents by group.
        sigmas: noise level per frame by group; the first view is a condition.
        geometry: encoded maps by group.
        text: text-encoder rows.
    """

    layout: TokenLayout
    latents: Mapping[str, Tensor]
    sigmas: Mapping[str, Tensor]
    geometry: Mapping[str, GeometryLatents]
    text: Tensor

    def prepare(self, model: SeqTexTransformer, *, precompute: bool = True) -> StepCache:
        """The model's cache for this scene."""
        with torch.no_grad():
            return model.prepare(
                self.layout, geometry=self.geometry, text=self.text, precompute=precompute
            )

    def double(self) -> Scene:
        """The same values in fp64."""
        return Scene(
            layout=self.layout,
            latents={name: x.double() for name, x in self.latents.items()},
            sigmas=self.sigmas,
            geometry={name: maps.each(Tensor.double) for name, maps in self.geometry.items()},
            text=self.text.double(),
        )

    def only_views(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latents and sigmas without the texture."""
        return {"views": self.latents["views"]}, {"views": self.sigmas["views"]}


def build_model(
    size: ModelSize,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    attention: str | Attend = "auto",
    merged: bool = True,
    released: bool = False,
) -> SeqTexTransformer:
    """A doubled Wan model; on the meta device without memory, else with seeded weights.

    Adapters and geometry casters, which start at zero, get seeded values too, so that an error in
    them would show.

    Args:
        size: of the model.
        device: where it goes.
        dtype: of its weights; norms, tables and the time embedding stay fp32.
        seed: of the weights.
        attention: implementation.
        merged: ready for inference: adapters in the weights, projections of one input joined.
        released: geometry before RoPE and keys of unnormalised mv tokens, as the released
            weights want it; else the library's defaults.
    """
    entry = _entry(size)
    if device.type == "meta":
        backbone = empty_backbone(entry, dtype=dtype)
    else:
        backbone = load_backbone(entry, seed=seed, dtype=dtype, device=device)
    config = DecoupledConfig(
        geometry_order="pre_rope" if released else "post_rope",
        uv_key_source="raw_post_attn" if released else "norm_pre_attn",
        lora_rank=size.lora_rank,
        lora_alpha=size.lora_rank / 2,
    )
    model = SeqTexTransformer(backbone, config, attention=attention).eval().requires_grad_(False)
    if device.type != "meta":
        _wake(model, seed)
    return prepare_for_inference(model) if merged else model


def wide_copy(model: SeqTexTransformer, *, attention: str | Attend) -> SeqTexTransformer:
    """The same model in fp64, with another attention implementation."""
    wide = copy.deepcopy(model).double()
    wide.attend = attention if not isinstance(attention, str) else wide.attend
    return wide


def build_scene(
    size: ModelSize,
    model: SeqTexTransformer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> Scene:
    """Random latents, geometry and text of one object."""
    sides = {"views": (size.views, size.view_tokens), "texture": (1, size.uv_tokens)}
    sizes = {name: (frames, 2 * side, 2 * side) for name, (frames, side) in sides.items()}
    layout = model.layout(sizes, {"views": "mv", "texture": "uv"})
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        if device.type == "meta":
            return torch.empty(*shape, device=device, dtype=dtype)
        return torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)

    def maps(name: str) -> Tensor:
        return drawn(1, LATENT_CHANNELS, *sizes[name])

    sigmas = {
        "views": torch.tensor([[0.015, *[0.7] * (size.views - 1)]], device=device),
        "texture": torch.full((1, 1), 0.7, device=device),
    }
    return Scene(
        layout=layout,
        latents={name: maps(name) for name in sizes},
        sigmas=sigmas,
        geometry={n: GeometryLatents(position=maps(n), normal=maps(n)) for n in sizes},
        text=drawn(1, size.num_text, model.spec.text_dim),
    )


def _entry(size: ModelSize) -> WanEntry:
    config = WanConfig(
        num_attention_heads=size.heads,
        attention_head_dim=HEAD_DIM,
        num_layers=size.layers,
        ffn_dim=size.ffn_dim,
        freq_dim=FREQ_DIM,
        text_length=size.num_text,
    )
    return WanEntry(name="benchmark", summary="a Wan model of any size", config=config)


def _wake(model: SeqTexTransformer, seed: int) -> None:
    """Seeded values for what starts at zero: adapters, casters."""
    generator = torch.Generator().manual_seed(seed + 1)

    def fill(weight: Tensor, scale: float) -> None:
        with torch.no_grad():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))

    for _, layer in lora_layers(model):
        fill(layer.lora_B.weight, 0.02)
    for block in model.muv_blocks():
        fill(block.geometry_caster.weight, model.spec.dim**-0.5)
