"""Cosmos against diffusers: sizes, forward and sampling as its pipelines do, loading."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqtex_backbones.cosmos.backbone import CosmosBackbone
from seqtex_backbones.cosmos.configs import (
    COSMOS_2_5_14B,
    COSMOS_2_TEXT2IMAGE_2B,
    COSMOS_2_VIDEO2WORLD_14B,
    COSMOS_TINY,
    COSMOS_TINY_VIDEO,
    CosmosEntry,
    cosmos_entry,
)
from seqtex_backbones.cosmos.schedule import CosmosSchedule
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import BACKBONES, empty_backbone, load_backbone, native_tensors
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.samplers import EulerSampler
from seqtex_core.testing.harness import randomize
from seqtex_core.transformer import SeqTexTransformer

FP32 = 2e-6  # of the largest expected value: a few roundings of sums of unit size
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
def test_named_sizes_are_those_of_diffusers(name: str) -> None:
    from diffusers import CosmosTransformer3DModel

    dim, layers, channels, llm, learned, millions = PUBLISHED[name]
    backbone, entry = empty_backbone(name), BACKBONES.get(name)
    assert isinstance(entry, CosmosEntry)
    assert entry.name == name
    named = native_tensors(backbone)
    with torch.device("meta"):
        model = CosmosTransformer3DModel(**entry.config.to_diffusers())
    assert {key: t.shape for key, t in named.items()} == {
        key: t.shape for key, t in model.state_dict().items()
    }
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
    with pytest.raises(UsageError, match="WanTransformer3DModel"):
        entry.differences({"_class_name": "WanTransformer3DModel"})


@pytest.mark.parametrize(
    ("field", "sizes"),
    [
        ("num_layers", {"num_layers": 0}),
        ("attention_head_dim", {"attention_head_dim": 10}),
        ("attention_head_dim", {"attention_head_dim": 25}),
        ("rope_scale", {"rope_scale": [1.0, -1.0, 1.0]}),
        ("fps", {"fps": 0.0}),
        ("objective", {"objective": "guess"}),
        ("spread", {"spread": "sideways"}),
        ("Cosmos sizes", {"num_blocks": 2}),
    ],
)
def test_sizes_that_cannot_be_are_named(field: str, sizes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        cosmos_entry("mine", sizes)
    assert caught.value.subject.startswith(field)


@pytest.mark.parametrize(
    "change",
    [{"img_context_dim_in": 8}, {"controlnet_block_every_n": 7}, {"patch_size": (2, 2, 2)}],
)
def test_variants_that_the_adapter_does_not_compute_are_refused(change: dict[str, Any]) -> None:
    from diffusers import CosmosTransformer3DModel

    with torch.device("meta"):
        model = CosmosTransformer3DModel(**{**COSMOS_TINY.config.to_diffusers(), **change})
    with pytest.raises(UsageError, match=next(iter(change))):
        CosmosBackbone(model)


def random_transformer(entry: CosmosEntry) -> SeqTexTransformer:
    backbone = load_backbone(entry, seed=0)
    for index, module in enumerate([backbone.shell, *backbone.blocks]):
        randomize(module, seed=index)
    return SeqTexTransformer(backbone, DecoupledConfig(lora_rank=4)).eval()


def diffusers_model(transformer: SeqTexTransformer) -> Any:
    """Without the padding mask's own channel, which is one of the latents' here: no torchvision."""
    from diffusers import CosmosTransformer3DModel

    backbone: Any = transformer.backbone
    config = {**backbone.config, "concat_padding_mask": False}
    config["in_channels"] += 1
    model = CosmosTransformer3DModel.from_config(config)
    model.load_state_dict(transformer.mv_state_dict(), strict=True)
    return model.eval()


def masks(latents: Tensor, entry: CosmosEntry) -> Tensor:
    """Latents with channels of zeros: nothing is given, nothing is padding."""
    return functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, entry.config.in_channels - 15))


def close(got: Tensor, want: Tensor, *, times: float = 1.0) -> None:
    limit = times * FP32 * max(1.0, float(want.abs().max()))
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= limit


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
    transformer = random_transformer(replace(entry, config=replace(entry.config, **sizes)))
    model = diffusers_model(transformer)
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
    model = diffusers_model(transformer)
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


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
def test_weights_come_from_a_folder_of_diffusers(entry: CosmosEntry, tmp_path: Path) -> None:
    from diffusers import CosmosTransformer3DModel

    model = CosmosTransformer3DModel(**entry.config.to_diffusers())
    randomize(model, seed=8)
    model.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    want, got = model.state_dict(), native_tensors(load_backbone(entry.name, weights=tmp_path))
    assert set(got) == set(want)
    assert all(torch.equal(got[name], want[name]) for name in want)
    other = replace(entry, config=replace(entry.config, num_layers=3))
    with pytest.raises(WeightsError, match="num_layers is 2, not 3"):
        load_backbone(other, weights=tmp_path)


def test_half_precision_leaves_noise_levels_exact() -> None:
    """And learned positions, as in diffusers."""
    backbone = load_backbone("cosmos-tiny-video", seed=0, dtype=torch.bfloat16)
    sigma = torch.tensor([[0.0708, 0.985]])
    time, moved = (backbone.shell.encode_time(sigma + step) for step in (0.0, 1e-3))
    assert time.embedding.dtype == torch.bfloat16
    assert not torch.equal(time.embedding, moved.embedding)
    learned_rows = native_tensors(backbone)["learnable_pos_embed.pos_emb_h"]
    assert learned_rows.dtype == torch.float32


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_geometry_starts_embedded_as_latents_are(entry: CosmosEntry) -> None:
    """Without the channels of masks; a clean latent is fed as it is by both kinds of model."""
    shell = random_transformer(entry).backbone.shell
    latents = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(9))
    close(shell.new_latent_embed()(latents), shell.embed(latents, torch.zeros(2, 3)))


def test_a_size_of_ones_own_is_plain_data() -> None:
    config = {"num_layers": 3, "patch_size": [1, 4, 4], "rope_scale": [1, 2, 2]}
    entry = entry_from_config({"name": "mine", "architecture": "cosmos", "config": config})
    spec = empty_backbone(entry).spec
    assert (spec.num_blocks, spec.patch_size) == (3, (1, 4, 4))
