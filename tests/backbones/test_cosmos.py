"""Cosmos against diffusers: sizes, forward and sampling as its pipelines do, loading."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers_models import close, diffusers_model, random_transformer
from torch import Tensor
from torch.nn import functional

from seqtex_backbones.cosmos.configs import (
    COSMOS_2_5_14B,
    COSMOS_2_TEXT2IMAGE_2B,
    COSMOS_2_VIDEO2WORLD_14B,
    COSMOS_TINY,
    COSMOS_TINY_VIDEO,
    CosmosEntry,
)
from seqtex_backbones.cosmos.schedule import CosmosSchedule
from seqtex_backbones.registry import empty_backbone, load_backbone, native_tensors
from seqtex_core.errors import UsageError
from seqtex_core.samplers import EulerSampler
from seqtex_core.transformer import SeqTexTransformer

TINY = (COSMOS_TINY, COSMOS_TINY_VIDEO)


def parameters(dim: int, layers: int, channels: int, llm: int, learned: int) -> int:
    """Counted by hand: embedders, head, and per block modulation, two attentions, feed-forward."""
    modulation = 3 * (dim * 256 + 256 * 3 * dim)
    self_attention = 4 * dim * dim + 2 * 128
    cross_attention = 2 * dim * dim + 2 * 1024 * dim + 2 * 128
    block = modulation + self_attention + cross_attention + 2 * 4 * dim * dim
    time = dim * dim + dim * 3 * dim + dim
    head = dim * 256 + 256 * 2 * dim + dim * 4 * 16
    text = llm * 1024 + 1024 if llm else 0
    return learned * dim + channels * 4 * dim + time + layers * block + head + text


# Width, blocks, channels into the patches, width of the language model, learned positions,
# millions of parameters.
PUBLISHED = {
    "cosmos-predict1-7b-text2world": (4096, 28, 17, 0, 368, 7236),
    "cosmos-predict1-14b-text2world": (5120, 36, 17, 0, 368, 14267),
    "cosmos-predict2-2b-text2image": (2048, 28, 17, 0, 0, 1956),
    "cosmos-predict2-14b-text2image": (5120, 36, 17, 0, 0, 14265),
    "cosmos-predict2-2b-video2world": (2048, 28, 18, 0, 0, 1956),
    "cosmos-predict2-14b-video2world": (5120, 36, 18, 0, 0, 14265),
    "cosmos-predict2.5-2b": (2048, 28, 18, 100352, 0, 2059),
    "cosmos-predict2.5-14b": (5120, 36, 18, 100352, 0, 14368),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_the_published_ones(name: str) -> None:
    dim, layers, channels, llm, learned, millions = PUBLISHED[name]
    backbone = empty_backbone(name)
    named = native_tensors(backbone)
    count = sum(tensor.numel() for tensor in named.values())
    assert count == parameters(dim, layers, channels, llm, learned)
    assert count // 10**6 == millions
    assert len(named) == 7 + 2 * bool(llm) + 3 * bool(learned) + 20 * layers
    assert (backbone.spec.dim, backbone.spec.text_dim) == (dim, llm or 1024)


def test_config_files_of_diffusers_come_back() -> None:
    for entry in (COSMOS_2_TEXT2IMAGE_2B, COSMOS_2_VIDEO2WORLD_14B, COSMOS_2_5_14B):
        written: dict[str, Any] = {
            **entry.config.to_diffusers(),
            "_class_name": "CosmosTransformer3DModel",
            "patch_size": [1, 2, 2],
            "rope_scale": [*entry.config.rope_scale],
            "max_size": [128, 240, 240],
        }
        assert entry.differences(written) == []
    entry = COSMOS_2_TEXT2IMAGE_2B
    wrong = {**entry.config.to_diffusers(), "rope_scale": [1.0, 3.0, 3.0], "in_channels": 17}
    assert entry.differences(wrong) == [
        "in_channels is 17, not 16",
        "rope_scale is (1.0, 3.0, 3.0), not (1.0, 4.0, 4.0)",
    ]
    transfer = {**entry.config.to_diffusers(), "img_context_dim_in": 1152}
    assert entry.differences(transfer) == ["img_context_dim_in is 1152, not None"]


def without_padding_mask(transformer: SeqTexTransformer, entry: CosmosEntry) -> Any:
    """Its channel is one of the latents' here: no torchvision."""
    changes = {"concat_padding_mask": False, "in_channels": entry.config.in_channels + 1}
    return diffusers_model(transformer, entry, **changes)


def masks(latents: Tensor, entry: CosmosEntry) -> Tensor:
    """Latents with channels of zeros: nothing is given, nothing is padding."""
    return functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, entry.config.in_channels - 15))


SIZES = (
    # heads, head dim, blocks, frames, rows, columns of tokens
    (2, 16, 2, 4, 3, 5),
    (3, 32, 3, 1, 8, 8),
    (1, 64, 1, 9, 2, 7),
)


def pipeline_scheduler(entry: CosmosEntry) -> Any:
    from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    if entry.config.objective == "edm":
        return EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, final_sigmas_type="sigma_min")
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002)
    return scheduler


def denoised(model: Any, noisy: Tensor, s: Tensor, text: Tensor, entry: CosmosEntry) -> Tensor:
    """Clean latents (times the size of the signal), as the pipelines of diffusers make them."""
    clean: Tensor
    if entry.config.objective == "edm":
        scheduler = pipeline_scheduler(entry)
        told = scheduler.precondition_noise(s).expand(noisy.shape[0])
        given = scheduler.precondition_inputs(noisy, s)
    else:
        level = s / (s + 1)
        told, given = level.expand(noisy.shape[0]), noisy * (1 - level)
    output = model(masks(given, entry), told, text, fps=entry.config.fps, return_dict=False)[0]
    if entry.config.objective == "edm":
        clean = scheduler.precondition_outputs(noisy, output, s)
        return clean
    clean = (1 - level) * noisy - level * output
    return clean


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_denoised_latents_are_those_of_the_pipeline(
    entry: CosmosEntry, size: tuple[int, ...]
) -> None:
    """From noise on top of the signal to clean latents."""
    heads, head_dim, layers, frames, rows, columns = size
    sizes: dict[str, Any] = {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": layers,
    }
    entry = replace(entry, config=replace(entry.config, **sizes))
    transformer = random_transformer(entry)
    model = without_padding_mask(transformer, entry)
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(2, 16, frames, 2 * rows, 2 * columns, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    text = torch.randn(2, 8, transformer.spec.text_dim, generator=generator)
    layout = transformer.layout({"views": (frames, 2 * rows, 2 * columns)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text)
    d = 0.5 if entry.config.objective == "edm" else 1.0
    for s in torch.tensor([0.002, 0.5, 3.0, 80.0]):
        want = denoised(model, d * clean + s * noise, s, text, entry) / d
        level = s / (s + d)
        x = (1 - level) * clean + level * noise
        sigma = level.expand(2, frames)
        got = x - level * transformer({"views": x}, {"views": sigma}, cache)["views"]
        # The pipeline's own input is rounded at the size of the noise, then shrunk.
        close(got, want, times=2)


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_native_sampling_is_that_of_diffusers(entry: CosmosEntry) -> None:
    """Euler on the native levels against the pipeline's loop with its scheduler."""
    transformer = random_transformer(entry)
    model = without_padding_mask(transformer, entry)
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(1, 16, 4, 6, 4, generator=generator)
    text = torch.randn(1, 8, transformer.spec.text_dim, generator=generator)
    scheduler, steps = pipeline_scheduler(entry), 8
    ramp = torch.linspace(0, 1, steps).double()
    scheduler.set_timesteps(sigmas=ramp if entry.config.objective == "edm" else ramp.numpy())
    noises = scheduler.sigmas[:-1].float()  # the last step stays at the lowest level
    want = start * noises[0]
    for s, lower in itertools.pairwise(noises):
        velocity = (want - denoised(model, want, s, text, entry)) / s
        want = want + (lower - s) * velocity

    schedule: CosmosSchedule = transformer.backbone.schedule  # type: ignore[attr-defined]
    sigmas = schedule.native_sigmas(steps)
    sampler = EulerSampler(sigmas)
    layout = transformer.layout({"views": (4, 6, 4)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text)
    got = start * sigmas[0]
    for index, sigma in enumerate(sigmas[:-2]):
        levels = {"views": torch.full((1, 4), sigma)}
        got = sampler.step(transformer({"views": got}, levels, cache)["views"], got, index)
    # The pipeline's latents were 80 times larger on the way, and so were their roundings.
    close(got, want / (schedule.signal + noises[-1]), times=80)
    assert float((got - start).abs().max()) > 0.1


def test_native_levels_fall_from_the_highest_to_zero() -> None:
    for objective, d in (("flow", 1.0), ("edm", 0.5)):
        schedule = CosmosSchedule(objective=objective)  # type: ignore[arg-type]
        for steps in (2, 35):
            sigmas = schedule.native_sigmas(steps)
            assert len(sigmas) == steps + 1
            assert sigmas[0] == pytest.approx(80 / (80 + d))
            assert sigmas[-2] == pytest.approx(0.002 / (0.002 + d))
            assert sigmas[-1] == 0.0
            assert list(sigmas) == sorted(sigmas, reverse=True)
    schedule = CosmosSchedule()
    assert schedule.native_sigmas(5, noise_max=200.0, noise_min=0.01)[0] == pytest.approx(200 / 201)
    with pytest.raises(UsageError, match="steps"):
        schedule.native_sigmas(1)
    with pytest.raises(UsageError, match="noise"):
        schedule.native_sigmas(5, noise_max=0.001)


@pytest.mark.parametrize("objective", ["flow", "edm"])
def test_levels_that_the_model_is_told_rise_and_stay_finite(objective: Any) -> None:
    levels = torch.linspace(0, 1, 1001)[None]
    told = CosmosSchedule(objective=objective).condition(levels)
    assert bool(told.isfinite().all())
    assert bool((told.diff() >= 0).all())
    assert bool((told.diff()[:, 5:990] > 0).all())


def test_half_precision_leaves_learned_positions_exact() -> None:
    """As in diffusers."""
    backbone = load_backbone("cosmos-tiny-video", seed=0, dtype=torch.bfloat16)
    learned_rows = native_tensors(backbone)["learnable_pos_embed.pos_emb_h"]
    assert learned_rows.dtype == torch.float32


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_geometry_starts_embedded_as_latents_are(entry: CosmosEntry) -> None:
    """Without the channels of masks; a clean latent is fed as it is by both kinds of model."""
    shell = random_transformer(entry).backbone.shell
    latents = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(9))
    close(shell.new_latent_embed()(latents), shell.embed(latents, torch.zeros(2, 3)))
