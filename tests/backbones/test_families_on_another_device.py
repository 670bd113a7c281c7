"""Every family and codec computes on another device, with gradients, and misplaces no tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import pytest
import torch
from pretended_device import DEVICE, pretended_device, there
from tiny_codecs import tiny_cogvideox_vae, tiny_vae
from torch import Tensor

from seqtex_backbones.codecs import PixelCodec
from seqtex_backbones.codecs.protocol import Codec
from seqtex_backbones.registry import load_backbone
from seqtex_core.adapter import Backbone
from seqtex_core.testing.harness import Harness, Inputs
from seqtex_core.transformer import SeqTexTransformer

FAMILIES = (
    "wan-tiny-i2v",
    "cogvideox-tiny-2b",
    "cosmos-tiny-video",
    "hunyuan-video-tiny",
    "ltx-video-tiny",
    "mochi-tiny",
)
CODECS: dict[str, Callable[[], Codec]] = {
    "wan": tiny_vae,
    "wan in tiles": lambda: tiny_vae(tile_size=4),
    "cogvideox": tiny_cogvideox_vae,
    "pixel": PixelCodec,
}


class Family(Harness):
    def __init__(self, name: str) -> None:
        self.name = name

    def make_backbone(self) -> Backbone:
        return load_backbone(self.name, seed=0)


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretended_device() as found:
        yield found


def moved(inputs: Inputs) -> Inputs:
    names = {field.name for field in fields(inputs)} - {"layout", "packed"}
    return replace(inputs, **{name: there(getattr(inputs, name)) for name in names})


def trained(harness: Harness, model: SeqTexTransformer, inputs: Inputs) -> dict[str, Tensor]:
    """Gradients of a loss by parameter, and the velocities."""
    velocity = model(inputs.latents, inputs.sigmas, harness.prepare(model, inputs))
    sum(x.square().mean() for x in velocity.values()).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {**found, **{name: x.detach() for name, x in velocity.items()}}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_samples_and_trains(device: torch.device, name: str) -> None:
    harness = Family(name)
    model = harness.make_transformer()
    inputs = harness.make_inputs(model, batch=2)
    here = trained(harness, model, inputs)
    model.to(device)
    inputs = moved(inputs)
    assert {x.device for x in harness.velocity(model, inputs).values()} == {device}
    found = trained(harness, model, inputs)
    assert set(found) == set(here)
    for key, x in here.items():
        assert found[key].device == device
        # rows of both branches pass cross-attention as one: sums in another order, in two blocks
        assert float((found[key].cpu() - x).norm()) <= 1e-4 * float(x.norm()) + 1e-6, key


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_encodes_and_decodes(device: torch.device, name: str) -> None:
    codec = CODECS[name]()
    size = 8 * codec.spatial_factor
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    here = codec.encode(images, content="geometry")
    pixels = codec.decode(here)
    if isinstance(codec, torch.nn.Module):
        codec.to(device)
    latents = codec.encode(images.to(device), content="geometry")
    decoded = codec.decode(latents)
    assert latents.device == decoded.device == DEVICE
    # diffusers has convolutions of its own for CPUs; the others are the same operations
    torch.testing.assert_close(latents.cpu(), here, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded.cpu(), pixels, rtol=1e-4, atol=1e-5)
