"""The authors' files of Wan, read: the model that they name computes what diffusers computes.

The forward below is written over the authors' key names from the description of the architecture,
so that a key map that swaps two weights of one shape would show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_backbones.wan.configs import WAN_TINY, WAN_TINY_I2V, WanConfig, WanEntry
from seqtex_backbones.wan.keys import diffusers_names, to_original
from seqtex_backbones.wan.sizes import wan_config_of

State = Mapping[str, Tensor]


def authors_shapes(config: WanConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes as the authors' model class makes them."""
    dim = config.num_attention_heads * config.attention_head_dim
    shapes = dict[str, tuple[int, ...]]()

    def linear(name: str, out: int, inner: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inner), (out,)

    shapes["patch_embedding.weight"] = (dim, config.in_channels, *config.patch_size)
    shapes["patch_embedding.bias"] = (dim,)
    linear("text_embedding.0", dim, config.text_dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", dim, config.freq_dim)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", 6 * dim, dim)
    linear("head.head", math.prod(config.patch_size) * config.out_channels, dim)
    shapes["head.modulation"] = (1, 2, dim)
    if config.image_dim is not None:
        shapes["img_emb.proj.0.weight"] = shapes["img_emb.proj.0.bias"] = (config.image_dim,)
        linear("img_emb.proj.1", config.image_dim, config.image_dim)
        linear("img_emb.proj.3", dim, config.image_dim)
        shapes["img_emb.proj.4.weight"] = shapes["img_emb.proj.4.bias"] = (dim,)
    for index in range(config.num_layers):
        at = f"blocks.{index}."
        shapes[f"{at}modulation"] = (1, 6, dim)
        shapes[f"{at}norm3.weight"] = shapes[f"{at}norm3.bias"] = (dim,)
        linear(f"{at}ffn.0", config.ffn_dim, dim)
        linear(f"{at}ffn.2", dim, config.ffn_dim)
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{at}{attention}.{part}", dim, dim)
            for part in "qk":
                shapes[f"{at}{attention}.norm_{part}.weight"] = (dim,)
        if config.added_kv_proj_dim is not None:
            linear(f"{at}cross_attn.k_img", dim, config.added_kv_proj_dim)
            linear(f"{at}cross_attn.v_img", dim, config.added_kv_proj_dim)
            shapes[f"{at}cross_attn.norm_k_img.weight"] = (dim,)
    return shapes


def drawn_state(config: WanConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in authors_shapes(config).items():
        value = torch.randn(shape, generator=generator)
        norm = "norm" in name or ".proj.0." in name or ".proj.4." in name
        scale = 0.3 if len(shape) == 1 or "modulation" in name else math.prod(shape[1:]) ** -0.5
        state[name] = (1 + 0.3 * value) if norm and name.endswith("weight") else scale * value
    return state


def authors_forward(
    state: State, config: WanConfig, x: Tensor, timestep: Tensor, text: Tensor, image: Tensor | None
) -> Tensor:
    heads = config.num_attention_heads

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(value: Tensor, name: str | None = None, eps: float = 1e-6) -> Tensor:
        weights = (None, None) if name is None else (state[f"{name}.weight"], state[f"{name}.bias"])
        return functional.layer_norm(value, value.shape[-1:], *weights, eps=eps)

    def rms(value: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-6)
        return value * scale * state[f"{name}.weight"]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = [p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in (query, key, value)]
        return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    frames, height, width = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
    kernel = state["patch_embedding.weight"]
    tokens = functional.conv3d(x, kernel, state["patch_embedding.bias"], stride=(1, 2, 2))
    tokens = tokens.flatten(2).transpose(1, 2)
    half = config.freq_dim // 2
    phase = timestep[:, None] * torch.exp(-math.log(1e4) * torch.arange(half) / half)
    time = linear("time_embedding.0", torch.cat([phase.cos(), phase.sin()], dim=-1))
    time = linear("time_embedding.2", functional.silu(time))
    projected = linear("time_projection.1", functional.silu(time)).unflatten(-1, (6, -1))
    context = linear("text_embedding.0", text)
    context = linear("text_embedding.2", functional.gelu(context, approximate="tanh"))
    picture = None
    if image is not None:
        picture = linear("img_emb.proj.1", norm(image, "img_emb.proj.0", 1e-5))
        picture = linear("img_emb.proj.3", functional.gelu(picture))
        picture = norm(picture, "img_emb.proj.4", 1e-5)
    turn = _phases((frames, height, width), config.attention_head_dim)

    def rotate(value: Tensor) -> Tensor:
        planes = torch.view_as_complex(value.double().unflatten(-1, (heads, -1, 2)))
        return torch.view_as_real(planes * turn[:, None]).flatten(2).float()

    for index in range(config.num_layers):
        at = f"blocks.{index}."
        m = (state[f"{at}modulation"] + projected).unsqueeze(2).unbind(1)
        y = norm(tokens) * (1 + m[1]) + m[0]
        query, key = (
            rotate(rms(linear(f"{at}self_attn.{p}", y), f"{at}self_attn.norm_{p}")) for p in "qk"
        )
        out = attend(query, key, linear(f"{at}self_attn.v", y))
        tokens = tokens + linear(f"{at}self_attn.o", out) * m[2]
        y = norm(tokens, f"{at}norm3")
        query = rms(linear(f"{at}cross_attn.q", y), f"{at}cross_attn.norm_q")
        key = rms(linear(f"{at}cross_attn.k", context), f"{at}cross_attn.norm_k")
        out = attend(query, key, linear(f"{at}cross_attn.v", context))
        if picture is not None:
            key = rms(linear(f"{at}cross_attn.k_img", picture), f"{at}cross_attn.norm_k_img")
            out = out + attend(query, key, linear(f"{at}cross_attn.v_img", picture))
        tokens = tokens + linear(f"{at}cross_attn.o", out)
        y = norm(tokens) * (1 + m[4]) + m[3]
        inner = functional.gelu(linear(f"{at}ffn.0", y), approximate="tanh")
        tokens = tokens + linear(f"{at}ffn.2", inner) * m[5]
    shift, scale = (state["head.modulation"] + time[:, None]).unsqueeze(2).unbind(1)
    patches = linear("head.head", norm(tokens) * (1 + scale) + shift)
    patches = patches.unflatten(1, (frames, height, width))
    patches = patches.unflatten(-1, (1, 2, 2, config.out_channels))
    latents = torch.einsum("bfhwpqrc->bcfphqwr", patches)
    return latents.reshape(len(x), -1, frames, 2 * height, 2 * width)


def _phases(grid: tuple[int, int, int], head_dim: int) -> Tensor:
    side = 2 * (head_dim // 6)
    widths = (head_dim - 2 * side, side, side)
    positions = torch.meshgrid(*(torch.arange(n).double() for n in grid), indexing="ij")
    angles = [
        position.flatten()[:, None] * 1e4 ** (-torch.arange(0, width, 2).double() / width)
        for position, width in zip(positions, widths, strict=True)
    ]
    joined = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(joined), joined)


@pytest.mark.parametrize("entry", [WAN_TINY, WAN_TINY_I2V], ids=lambda entry: entry.name)
@torch.no_grad()
def test_the_authors_model_computes_what_the_loaded_one_does(
    tmp_path: Path, entry: WanEntry
) -> None:
    config = entry.config
    state = drawn_state(config)
    save_file(state, tmp_path / "wan.safetensors")
    backbone = load_backbone(entry, weights=tmp_path / "wan.safetensors")
    named = native_tensors(backbone)
    assert {to_original(name) for name in named} == set(state)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, config.out_channels, 2, 4, 6, generator=generator)
    text = torch.randn(2, config.text_length, config.text_dim, generator=generator)
    image = None
    if config.image_dim is not None:
        image = torch.randn(2, 5, config.image_dim, generator=generator)
    sigma = torch.tensor([0.3, 0.9])
    extra = config.in_channels - config.out_channels
    padded = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, extra))
    wanted = authors_forward(state, config, padded, 1000 * sigma, text, image)
    got = backbone.reference_velocity(named, x, sigma, text, image)
    assert wanted.std() > 0.3
    # measured elsewhere between both original implementations: 1.6e-6 for outputs of size 1
    torch.testing.assert_close(got, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("entry", [WAN_TINY, WAN_TINY_I2V], ids=lambda entry: entry.name)
def test_sizes_are_read_off_the_authors_files(entry: WanEntry) -> None:
    state = {name: torch.empty(shape) for name, shape in authors_shapes(entry.config).items()}
    names = diffusers_names(state)
    shapes = {names[name]: tuple(tensor.shape) for name, tensor in state.items()}
    found = wan_config_of(shapes, head_dim=24, subject="a file")
    assert found.to_diffusers() == entry.config.to_diffusers()
