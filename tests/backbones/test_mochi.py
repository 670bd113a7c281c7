"""Mochi against diffusers: forward and sampling, positions, text of two lengths, loading."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers_models import close, diffusers_model, random_transformer

from seqtex_backbones.mochi.configs import MOCHI_1, MOCHI_TINY, MochiEntry
from seqtex_backbones.mochi.positions import MochiPositions
from seqtex_backbones.registry import empty_backbone, load_backbone, native_tensors
from seqtex_core.errors import UsageError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.samplers import EulerSampler

# diffusers' Mochi asks for fp32 autocast, which exists on GPUs only; on a CPU it is fp32 anyway.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")


def test_the_named_size_is_that_of_diffusers() -> None:
    """Keys, shapes and number of parameters of diffusers' class at its published size."""
    from diffusers import MochiTransformer3DModel

    with torch.device("meta"):
        model = MochiTransformer3DModel()
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    backbone = empty_backbone("mochi-1-preview")
    named = native_tensors(backbone)
    assert all(tensor.is_meta for tensor in named.values())
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == want
    assert sum(tensor.numel() for tensor in named.values()) == 10_027_677_744
    spec = backbone.spec
    assert (spec.dim, spec.num_blocks, spec.text_length, spec.latent_channels) == (
        3072,
        48,
        256,
        12,
    )


def test_config_files_of_diffusers_come_back() -> None:
    written = MOCHI_1.config.to_diffusers() | {"_class_name": "MochiTransformer3DModel"}
    assert MOCHI_1.differences(written) == []
    assert MOCHI_1.differences({**written, "out_channels": 12}) == []
    assert MOCHI_1.differences({**written, "num_layers": 24, "out_channels": 24}) == [
        "num_layers is 24, not 48",
        "out_channels is 24, not None",
    ]


SIZES = (
    # heads, head dim, blocks, width of the text; frames, rows, columns
    (2, 16, 2, 20, 1, 3, 5),
    (3, 8, 4, 36, 4, 6, 3),
    (1, 64, 1, 16, 3, 2, 7),
)


def sized(size: tuple[int, ...]) -> MochiEntry:
    heads, head_dim, blocks, text = size[:4]
    config = replace(
        MOCHI_TINY.config,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=blocks,
        pooled_projection_dim=text,
    )
    return replace(MOCHI_TINY, config=config)


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_forward_is_that_of_diffusers(size: tuple[int, ...]) -> None:
    """Two samples with prompts of 8 and 3 rows; the model's time runs from 0 (noise) to 1000."""
    entry = sized(size)
    transformer = random_transformer(entry)
    model = diffusers_model(transformer, entry)
    frames, rows, columns = size[4:]
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(2, 12, frames, 2 * rows, 2 * columns, generator=generator)
    text = torch.randn(2, 8, 24, generator=generator)
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    layout = transformer.layout({"views": (frames, 2 * rows, 2 * columns)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text, text_mask=mask)
    for timestep in (0.0, 62.5, 980.0, 1000.0):
        want = -model(noisy, text, torch.full((2,), timestep), mask, return_dict=False)[0]
        sigma = torch.full((2, frames), 1.0 - timestep / 1000.0)
        close(transformer({"views": noisy}, {"views": sigma}, cache)["views"], want)


@torch.no_grad()
def test_sampling_is_that_of_diffusers() -> None:
    """Euler from noise to images against diffusers' scheduler, set up as in its pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    transformer = random_transformer(MOCHI_TINY)
    model = diffusers_model(transformer, MOCHI_TINY)
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(1, 12, 4, 8, 10, generator=generator)
    text, mask = torch.randn(1, 8, 24, generator=generator), torch.ones(1, 8).bool()
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.125, 8))
    want = start
    for timestep in scheduler.timesteps:
        predicted = model(want, text, timestep[None], mask, return_dict=False)[0]
        want = scheduler.step(predicted, timestep, want, return_dict=False)[0]

    sigmas = tuple(1.0 - float(level) for level in scheduler.sigmas)
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    sampler = EulerSampler(sigmas)
    layout = transformer.layout({"views": (4, 8, 10)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text)
    got = start
    for index, sigma in enumerate(sigmas[:-1]):
        levels = {"views": torch.full((1, 4), sigma)}
        got = sampler.step(transformer({"views": got}, levels, cache)["views"], got, index)
    close(got, want)
    assert float((got - start).abs().max()) > 0.1


def test_a_finer_texture_lies_between_the_views_tokens() -> None:
    """The middle of two texture tokens is a token of the views; both cover the same area."""
    frequencies = torch.eye(3)[:, None]  # the three angles are the three positions
    positions = MochiPositions(torch.nn.Parameter(frequencies), area=36)
    views, texture = Grid(frames=2, height=3, width=3), Grid(frames=1, height=6, width=6)
    groups = (
        FrameGroup(name="views", stream="mv", grid=views),
        FrameGroup(name="texture", stream="uv", grid=texture),
    )
    layout = TokenLayout.of(groups)
    row, column = torch.meshgrid(torch.arange(6) - 2.5, torch.arange(6) - 2.5, indexing="ij")
    want = torch.stack([torch.full_like(row, 2.0), row, column], dim=-1).view(36, 1, 3)
    tables = positions.tables(layout)
    assert torch.equal(tables["uv"].cos, want.cos())
    assert torch.equal(tables["uv"].sin, want.sin())
    fine = want.view(3, 2, 3, 2, 3).mean(dim=(1, 3))
    fine[..., 0] = 1.0
    assert torch.allclose(tables["mv"].sin[9:].view(3, 3, 3), fine.sin(), atol=1e-6)
    keep = {"views": torch.tensor([0, 5, 17]), "texture": torch.tensor([7])}
    packed = positions.tables(TokenLayout(groups=groups, keep=keep))
    assert torch.equal(packed["mv"].cos, tables["mv"].cos[keep["views"]])
    assert torch.equal(packed["uv"].cos, tables["uv"].cos[keep["texture"]])


def test_learned_positions_are_one_for_both_branches_and_learn_under_checkpointing() -> None:
    transformer = random_transformer(MOCHI_TINY, mv_train="full", uv_share=frozenset())
    shells: Any = transformer.shells
    frequencies = shells["mv"].positions.pos_frequencies
    assert shells["uv"].positions.pos_frequencies is frequencies
    generator = torch.Generator().manual_seed(5)
    latents = {
        "views": torch.randn(1, 12, 2, 4, 6, generator=generator),
        "texture": torch.randn(1, 12, 1, 8, 8, generator=generator),
    }
    sigmas = {"views": torch.full((1, 2), 0.5), "texture": torch.full((1, 1), 0.9)}
    sizes = {name: (x.shape[2], x.shape[3], x.shape[4]) for name, x in latents.items()}
    layout = transformer.layout(sizes, {"views": "mv", "texture": "uv"})
    gradients = []
    for checkpointing in (False, True):
        transformer.gradient_checkpointing = checkpointing
        frequencies.grad = None
        out = transformer(latents, sigmas, transformer.prepare(layout))
        torch.stack([value.square().mean() for value in out.values()]).sum().backward()
        gradients.append(frequencies.grad)
    assert bool((gradients[0] != 0).all())
    assert torch.equal(*gradients)


def test_half_precision_leaves_learned_frequencies_exact() -> None:
    half = native_tensors(load_backbone("mochi-tiny", seed=0, dtype=torch.bfloat16))
    kept = [name for name, tensor in half.items() if tensor.dtype == torch.float32]
    assert kept == ["pos_frequencies"]


def test_what_the_model_does_not_read_is_refused() -> None:
    transformer = random_transformer(MOCHI_TINY)
    layout = transformer.layout({"views": (1, 4, 4)}, {"views": "mv"})
    with pytest.raises(UsageError, match="pooled_text"):
        transformer.prepare(layout, text=torch.ones(1, 8, 24), pooled_text=torch.ones(1, 12))
    with pytest.raises(UsageError, match="image"):
        transformer.prepare(layout, image=torch.ones(1, 3, 4))
