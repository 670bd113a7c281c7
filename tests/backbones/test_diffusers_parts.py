"""What adapters of diffusers' transformers share: patches, folded norms, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seqtex_backbones.diffusers_parts.backbone import require_config
from seqtex_backbones.diffusers_parts.patches import ConvPatches, LinearPatches, join_patches
from seqtex_backbones.diffusers_parts.sublayers import adaptive, with_weights
from seqtex_backbones.registry import load_backbone, native_tensors
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.modulation import normed_rows

sizes = st.integers(1, 3)


def identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width, bias=False)
    nn.init.eye_(layer.weight)
    return layer


@given(frames=sizes, rows=sizes, columns=sizes, channels=sizes, patch=sizes)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_what_is_cut_into_patches_is_joined_again(
    frames: int, rows: int, columns: int, channels: int, patch: int
) -> None:
    """Channels first as they are cut; last with every vector turned over."""
    latents = torch.randn(2, channels, frames, rows * patch, columns * patch)
    cut = LinearPatches(identity(channels * patch**2), patch_size=patch)
    grid, size = Grid(frames=frames, height=rows, width=columns), (1, patch, patch)
    with torch.no_grad():
        tokens = cut(latents)
    assert tokens.shape == (2, frames * rows * columns, channels * patch**2)
    assert torch.equal(join_patches(tokens, grid, size, channels="first"), latents)
    turned = tokens.unflatten(-1, (channels, -1)).transpose(-1, -2).flatten(-2)
    assert torch.equal(join_patches(turned, grid, size, channels="last"), latents)


def test_patches_of_several_frames_are_joined_in_their_order() -> None:
    latents = torch.arange(2.0 * 4 * 3 * 3).view(1, 2, 4, 3, 3)
    vectors = latents.unflatten(2, (2, 2)).permute(0, 2, 4, 5, 1, 3).flatten(4).flatten(1, 3)
    joined = join_patches(vectors, Grid(frames=2, height=3, width=3), (2, 1, 1), channels="first")
    assert torch.equal(joined, latents)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["2-D", "3-D"])
def test_a_convolution_and_a_linear_layer_cut_alike(kind: str) -> None:
    """fp32: sums over 27 products in another order."""
    conv: Any = nn.Conv2d(3, 8, 3, 3) if kind == "2-D" else nn.Conv3d(3, 8, (1, 3, 3), (1, 3, 3))
    linear = nn.Linear(27, 8)
    linear.weight.copy_(conv.weight.flatten(1))
    linear.bias.copy_(conv.bias)
    latents = torch.randn(2, 3, 4, 6, 9)
    got = ConvPatches(conv)(latents)
    torch.testing.assert_close(got, LinearPatches(linear, patch_size=3)(latents), atol=1e-6, rtol=0)
    assert got.is_contiguous()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_latents_alone_are_embedded_as_with_empty_channels(kind: str) -> None:
    """Of 5 channels 3 are latents; the copy has weights of its own."""
    patches: ConvPatches | LinearPatches
    if kind == "linear":
        patches = LinearPatches(nn.Linear(20, 8), patch_size=2, extra_channels=2)
    else:
        patches = ConvPatches(nn.Conv2d(5, 8, 2, 2), extra_channels=2)
    latents = torch.randn(1, 3, 2, 4, 4)
    alone = patches.of_latents()
    assert alone.extra_channels == 0
    torch.testing.assert_close(alone(latents), patches(latents), atol=1e-6, rtol=0)
    for parameter in alone.parameters():
        parameter.zero_()
    assert bool(patches(latents).any())


@torch.no_grad()
def test_a_norm_with_weights_is_a_modulation() -> None:
    """``(x w + b) f + s``, frame by frame; fp32, an ulp of values up to 16."""
    rows = StreamLayout(
        groups=(FrameGroup(name="views", stream="mv", grid=Grid(frames=2, height=1, width=3)),),
        frame_lengths=(3, 3),
        group_lengths=(6,),
    )
    norm = nn.LayerNorm(8, eps=1e-5)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x, (shift, scale, gate) = torch.randn(1, 6, 8), torch.randn(3, 1, 2, 8)
    tables = torch.cat([shift, scale, gate], dim=-1)
    plain = adaptive(tables, count=1, eps=norm.eps)[0].norm
    assert plain is not None
    got = normed_rows(x, with_weights(norm, plain), rows)

    def spread(table: Tensor) -> Tensor:
        return table.repeat_interleave(3, dim=1)

    torch.testing.assert_close(
        got, norm(x) * (1 + spread(scale)) + spread(shift), atol=4e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "given_", "words"),
    [
        ("cogvideox-tiny-5b", {"text_mask": torch.ones(1, 8).bool()}, "a text mask"),
        ("cosmos-tiny", {"image": torch.ones(1, 2, 4)}, "an image"),
        ("hunyuan-video-tiny", {}, "no summary"),
        ("ltx-video-tiny", {"pooled_text": torch.ones(1, 4)}, "a summary"),
        ("mochi-tiny", {"sigma": torch.full((1, 1), 0.5)}, "levels per frame"),
        ("wan-tiny", {"text_mask": torch.ones(1, 8).bool()}, "a text mask"),
    ],
)
def test_the_original_is_asked_for_nothing_that_it_does_not_know(
    name: str, given_: dict[str, Any], words: str
) -> None:
    backbone = load_backbone(name, seed=0)
    spec = backbone.spec
    inputs: dict[str, Any] = {
        "latents": torch.zeros(1, spec.latent_channels, 1, 4, 4),
        "sigma": torch.full((1,), 0.5),
        "text": torch.zeros(1, spec.text_length, spec.text_dim),
    } | given_
    with pytest.raises(UsageError, match=words):
        backbone.reference_velocity(native_tensors(backbone), **inputs)


def test_the_first_field_that_is_another_is_named() -> None:
    fields = {"depth": (2, 2), "width": (3, 4), "height": (5, 6)}
    with pytest.raises(UsageError, match=r"width of the Sketch config: expected 4, got 3\. Crop"):
        require_config("Sketch", fields, remedy="Crop it.")
