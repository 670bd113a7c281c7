"""LTX-Video against diffusers: sizes, forward at its own coordinates, positions, loading."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers_models import close, diffusers_model, random_transformer
from torch import Tensor

from seqtex_backbones.ltx.configs import (
    LTX_2B,
    LTX_13B,
    LTX_TINY,
    LTX_TINY_0_9_5,
    LTXEntry,
)
from seqtex_backbones.ltx.positions import PixelPositions
from seqtex_backbones.registry import empty_backbone, native_tensors
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.rope import GridSpread

TINY = (LTX_TINY, LTX_TINY_0_9_5)


def parameters(dim: int, layers: int) -> int:
    """Counted by hand: embedders, head, and per block two attentions and a feed-forward."""

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    attention = 4 * linear(dim, dim) + 2 * dim
    block = 2 * attention + linear(dim, 4 * dim) + linear(4 * dim, dim) + 6 * dim
    time = linear(256, dim) + linear(dim, dim) + linear(dim, 6 * dim)
    text = linear(4096, dim) + linear(dim, dim)
    return linear(128, dim) + time + text + layers * block + 2 * dim + linear(dim, 128)


# Keys, width, blocks, millions of parameters.
PUBLISHED = {
    "ltx-video-2b": (15 + 25 * 28, 2048, 28, 1923),
    "ltx-video-2b-0.9.5": (15 + 25 * 28, 2048, 28, 1923),
    "ltx-video-13b": (15 + 25 * 48, 4096, 48, 13042),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_the_published_ones(name: str) -> None:
    keys, dim, layers, millions = PUBLISHED[name]
    backbone = empty_backbone(name)
    named = native_tensors(backbone)
    count = sum(tensor.numel() for tensor in named.values())
    assert (len(named), count) == (keys, parameters(dim, layers))
    assert count // 10**6 == millions
    assert (backbone.spec.dim, backbone.spec.masks_text) == (dim, True)


def test_config_files_of_diffusers_come_back() -> None:
    for entry in (LTX_2B, LTX_13B):
        written = {**entry.config.to_diffusers(), "_class_name": "LTXVideoTransformer3DModel"}
        assert entry.differences(written) == []
    assert LTX_2B.differences({"_class_name": "LTXVideoTransformer3DModel"}) == []
    assert LTX_2B.differences({"num_layers": 48, "patch_size": 2}) == [
        "num_layers is 48, not 28",
        "patch_size is 2, not 1",
    ]


def pipeline_positions(entry: LTXEntry, size: tuple[int, int, int]) -> dict[str, Any]:
    """What the two pipelines of diffusers tell the model about positions, at 25 frames a second."""
    frames, height, width = size
    if not entry.config.causal_time:
        scale = (8 / 25, 32, 32)
        return {
            "num_frames": frames,
            "height": height,
            "width": width,
            "rope_interpolation_scale": scale,
        }
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline

    ids = LTXConditionPipeline._prepare_video_ids(1, frames, height, width)
    coords = LTXConditionPipeline._scale_video_ids(ids).float()
    coords[:, 0] *= 1.0 / 25
    return {"video_coords": coords.expand(2, -1, -1)}


SIZES = (
    # heads, head dim, blocks, frames, rows, columns
    (2, 20, 2, 4, 3, 5),
    (3, 32, 3, 1, 8, 8),
    (4, 16, 1, 9, 2, 7),
)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_forward_is_that_of_diffusers_where_its_pipelines_put_tokens(
    entry: LTXEntry, size: tuple[int, ...]
) -> None:
    heads, head_dim, layers, frames, rows, columns = size
    sizes: dict[str, Any] = {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": layers,
    }
    entry = replace(entry, config=replace(entry.config, **sizes))
    transformer = random_transformer(entry)
    model = diffusers_model(transformer, entry)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 12, frames, rows, columns, generator=generator)
    text = torch.randn(2, 8, 20, generator=generator)
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    layout = transformer.layout({"views": (frames, rows, columns)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text, text_mask=mask)
    for level in (0.0, 0.0708, 0.5, 1.0):
        want = model(
            latents.flatten(2).transpose(1, 2),
            text,
            torch.full((2,), 1000.0 * level),
            mask,
            return_dict=False,
            **pipeline_positions(entry, (frames, rows, columns)),
        )[0]
        want = want.transpose(1, 2).unflatten(2, (frames, rows, columns))
        sigma = torch.full((2, frames), level)
        close(transformer({"views": latents}, {"views": sigma}, cache)["views"], want)


VIEWS, TEXTURE = Grid(frames=2, height=3, width=4), Grid(frames=1, height=6, width=8)


def layout(keep: dict[str, Tensor] | None = None) -> TokenLayout:
    groups = (
        FrameGroup(name="views", stream="mv", grid=VIEWS),
        FrameGroup(name="texture", stream="uv", grid=TEXTURE),
    )
    return TokenLayout(groups=groups, keep=keep or {})


def where(spread: GridSpread, *, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Coordinates ``[3, F, H, W]`` of views and texture."""
    from seqtex_core.rope import spread_policy

    positions = PixelPositions(dim=40, num_heads=2, causal_time=causal, spread=spread)
    policy = spread_policy(spread, layout())
    views, texture = layout().groups
    return (
        positions.coordinates(views, 0, policy).view(3, 2, 3, 4),
        positions.coordinates(texture, 2, policy).view(3, 1, 6, 8),
    )


def test_a_texture_is_a_larger_picture_or_lies_over_the_views() -> None:
    """Twice as many tokens: twice the pixels, or half the pixels per token."""
    mv, uv = where("extrapolate")
    assert mv[1, 0, :, 0].tolist() == [0, 32, 64]
    assert uv[1, 0, :, 0].tolist() == [0, 32, 64, 96, 128, 160]
    assert torch.equal(uv[1:, 0, :3, :4], mv[1:, 0])
    mv, uv = where("interpolate")
    assert mv[2, 0, 0].tolist() == [0, 32, 64, 96]
    assert uv[2, 0, 0].tolist() == [0, 16, 32, 48, 64, 80, 96, 112]
    assert torch.equal(uv[1:, 0, ::2, ::2], mv[1:, 0])


def test_seconds_run_on_from_the_views_to_the_texture() -> None:
    """Eight frames per latent frame; since 0.9.5 one for the first."""
    mv, uv = where("extrapolate")
    seconds = [*mv[0, :, 0, 0].tolist(), float(uv[0, 0, 0, 0])]
    assert seconds == pytest.approx([0, 8 / 25, 16 / 25])
    mv, uv = where("extrapolate", causal=True)
    seconds = [*mv[0, :, 0, 0].tolist(), float(uv[0, 0, 0, 0])]
    assert seconds == pytest.approx([0, 1 / 25, 9 / 25])


def test_tables_follow_packing_and_turn_every_head_differently() -> None:
    positions = PixelPositions(dim=40, num_heads=2)
    full = positions.tables(layout())
    assert full["mv"].cos.shape == (24, 2, 10)
    assert not torch.equal(full["mv"].cos[:, 0], full["mv"].cos[:, 1])
    keep = {"views": torch.tensor([0, 5, 23]), "texture": torch.tensor([7])}
    packed = positions.tables(layout(keep))
    assert torch.equal(packed["mv"].cos, full["mv"].cos[keep["views"]])
    assert torch.equal(packed["uv"].sin, full["uv"].sin[keep["texture"]])


@torch.no_grad()
def test_rows_of_zeros_are_padding_without_a_mask() -> None:
    """As text encoders leave them; a prompt of zeros alone keeps one, for there must be one."""
    transformer = random_transformer(LTX_TINY)
    layout = transformer.layout({"views": (1, 2, 2)}, {"views": "mv"})
    generator = torch.Generator().manual_seed(5)
    text = torch.randn(2, 8, 20, generator=generator)
    text[0, 5:] = 0.0
    text[1] = 0.0
    mask = torch.arange(8) < torch.tensor([[5], [1]])
    latents = {"views": torch.randn(2, 12, 1, 2, 2, generator=generator)}
    levels = {"views": torch.full((2, 1), 0.5)}
    got, want = (
        transformer(latents, levels, transformer.prepare(layout, text=text, text_mask=given))
        for given in (None, mask)
    )
    assert torch.equal(got["views"], want["views"])
    every = transformer.prepare(layout, text=text, text_mask=torch.ones(2, 8).bool())
    assert not torch.equal(transformer(latents, levels, every)["views"], want["views"])


def test_image_rows_and_masks_of_other_kinds_are_refused() -> None:
    transformer = random_transformer(LTX_TINY)
    shape = transformer.layout({"views": (1, 2, 2)}, {"views": "mv"})
    text = torch.zeros(1, 8, 20)
    with pytest.raises(UsageError, match="image"):
        transformer.prepare(shape, text=text, image=torch.zeros(1, 2, 20))
    with pytest.raises(UsageError, match="boolean"):
        transformer.prepare(shape, text=text, text_mask=torch.ones(1, 8))
    with pytest.raises(UsageError, match="text_mask"):
        transformer.prepare(shape, text=text, text_mask=torch.ones(1, 7).bool())
