"""Cosmos against diffusers: sizes, forward and sampling as its pipelines do, positions, loading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqtex_backbones.cosmos import CosmosBackbone
from seqtex_backbones.cosmos_configs import (
    COSMOS_2_5_14B,
    COSMOS_2_TEXT2IMAGE_2B,
    COSMOS_2_VIDEO2WORLD_14B,
    COSMOS_TINY,
    COSMOS_TINY_VIDEO,
    CosmosEntry,
    cosmos_entry,
)
from seqtex_backbones.cosmos_positions import CosmosPositions
from seqtex_backbones.cosmos_schedule import native_sigmas
from seqtex_backbones.entry_config import entry_from_config
from seqtex_backbones.registry import BACKBONES, empty_backbone, load_backbone, native_tensors
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.rope import apply_rope
from seqtex_core.samplers import EulerSampler
from seqtex_core.testing.harness import randomize
from seqtex_core.transformer import SeqTexTransformer

FP32 = 2e-6  # of the largest expected value: a few roundings of sums of unit size
TINY = (COSMOS_TINY, COSMOS_TINY_VIDEO)


def parameters(dim: int, layers: int, channels: int, llm: int) -> int:
    """Counted by hand: embedders, head, and per block modulation, two attentions, feed-forward."""
    modulation = 3 * (dim * 256 + 256 * 3 * dim)
    self_attention = 4 * dim * dim + 2 * 128
    cross_attention = 2 * dim * dim + 2 * 1024 * dim + 2 * 128
    block = modulation + self_attention + cross_attention + 2 * 4 * dim * dim
    time = dim * dim + dim * 3 * dim + dim
    head = dim * 256 + 256 * 2 * dim + dim * 4 * 16
    text = llm * 1024 + 1024 if llm else 0
    return channels * 4 * dim + time + layers * block + head + text


# Width, blocks, channels into the patches, width of the language model, millions of parameters.
PUBLISHED = {
    "cosmos-predict2-2b-text2image": (2048, 28, 17, 0, 1956),
    "cosmos-predict2-14b-text2image": (5120, 36, 17, 0, 14265),
    "cosmos-predict2-2b-video2world": (2048, 28, 18, 0, 1956),
    "cosmos-predict2-14b-video2world": (5120, 36, 18, 0, 14265),
    "cosmos-predict2.5-2b": (2048, 28, 18, 100352, 2059),
    "cosmos-predict2.5-14b": (5120, 36, 18, 100352, 14368),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_those_of_diffusers(name: str) -> None:
    from diffusers import CosmosTransformer3DModel

    dim, layers, channels, llm, millions = PUBLISHED[name]
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
    assert count == parameters(dim, layers, channels, llm)
    assert count // 10**6 == millions
    assert len(named) == 7 + 2 * bool(llm) + 20 * layers
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


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_denoised_latents_are_those_of_the_pipeline(
    entry: CosmosEntry, size: tuple[int, ...]
) -> None:
    """From noise on top of the signal to clean latents, as the pipelines of diffusers do it."""
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
    for s in (0.002, 0.5, 3.0, 80.0):
        noisy = clean + s * noise
        level = s / (s + 1)
        output = model(
            masks(noisy * (1 - level), entry),
            torch.full((2, 1, frames, 1, 1), level),
            text,
            fps=entry.config.fps,
            return_dict=False,
        )[0]
        want = (1 - level) * noisy - level * output
        sigma = torch.full((2, frames), level)
        x = (1 - level) * clean + level * noise
        got = x - level * transformer({"views": x}, {"views": sigma}, cache)["views"]
        # The pipeline's own input is rounded at the size of the noise, then shrunk.
        close(got, want, times=2)


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_native_sampling_is_that_of_diffusers(entry: CosmosEntry) -> None:
    """Euler on the native levels against the pipeline's loop with its scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    transformer = random_transformer(entry)
    model = diffusers_model(transformer)
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(1, 16, 4, 6, 4, generator=generator)
    text = torch.randn(1, 8, transformer.spec.text_dim, generator=generator)
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002)
    steps = 8
    scheduler.set_timesteps(sigmas=torch.linspace(0, 1, steps).double().tolist())
    scheduler.sigmas[-1] = scheduler.sigmas[-2]
    want = start * 80.0
    for index, timestep in enumerate(scheduler.timesteps):
        s = scheduler.sigmas[index]
        level = s / (s + 1)
        output = model(
            masks(want * (1 - level), entry),
            level.expand(1),
            text,
            fps=entry.config.fps,
            return_dict=False,
        )[0]
        denoised = (1 - level) * want - level * output
        want = scheduler.step((want - denoised) / s, timestep, want, return_dict=False)[0]

    sigmas = native_sigmas(steps)
    sampler = EulerSampler(sigmas)
    layout = transformer.layout({"views": (4, 6, 4)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text)
    got = start * sigmas[0]
    for index, sigma in enumerate(sigmas[:-2]):
        levels = {"views": torch.full((1, 4), sigma)}
        got = sampler.step(transformer({"views": got}, levels, cache)["views"], got, index)
    # The pipeline stops at its lowest level; its latents were 80 times larger on the way.
    close(got, want / (1 + 0.002), times=80)
    assert float((got - start).abs().max()) > 0.1


def test_native_levels_fall_from_the_highest_to_zero() -> None:
    for steps in (2, 35):
        sigmas = native_sigmas(steps)
        assert len(sigmas) == steps + 1
        assert sigmas[0] == pytest.approx(80 / 81)
        assert sigmas[-2] == pytest.approx(0.002 / 1.002)
        assert sigmas[-1] == 0.0
        assert list(sigmas) == sorted(sigmas, reverse=True)
    assert native_sigmas(5, noise_max=200.0, noise_min=0.01)[0] == pytest.approx(200 / 201)
    with pytest.raises(UsageError, match="steps"):
        native_sigmas(1)
    with pytest.raises(UsageError, match="noise"):
        native_sigmas(5, noise_max=0.001)


VIEWS, TEXTURE = Grid(frames=2, height=3, width=4), Grid(frames=1, height=6, width=8)


def layout(keep: dict[str, Tensor] | None = None, texture: Grid = TEXTURE) -> TokenLayout:
    groups = (
        FrameGroup(name="views", stream="mv", grid=VIEWS),
        FrameGroup(name="texture", stream="uv", grid=texture),
    )
    return TokenLayout(groups=groups, keep=keep or {})


def positions(**changes: Any) -> CosmosPositions:
    given: dict[str, Any] = {"head_dim": 16, "rope_scale": (1.0, 4.0, 4.0)}
    return CosmosPositions(**(given | changes))


def test_rotary_tables_are_those_of_diffusers() -> None:
    """Scaling of each axis, frames per second, and the pairing, by rotating the same rows."""
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.transformers.transformer_cosmos import CosmosRotaryPosEmbed

    rows = torch.randn(1, 24, 2, 16, generator=torch.Generator().manual_seed(0))
    for scale, fps in (((1.0, 4.0, 4.0), None), ((20 / 24, 2.0, 3.0), 16.0)):
        theirs = CosmosRotaryPosEmbed(hidden_size=16, rope_scale=scale)
        cos, sin = theirs(torch.zeros(1, 1, 2, 6, 8), fps=fps)
        want = apply_rotary_emb(
            rows.transpose(1, 2), (cos, sin), use_real=True, use_real_unbind_dim=-2
        )
        table = positions(rope_scale=scale, fps=fps).tables(layout())["mv"]
        close(apply_rope(rows, table), want.transpose(1, 2))


def test_a_texture_is_a_larger_picture_or_lies_over_the_views() -> None:
    extrapolated, interpolated = (
        positions(spread=spread).tables(layout())["uv"].cos.view(6, 8, 8)
        for spread in ("extrapolate", "interpolate")
    )
    mv = positions().tables(layout())["mv"].cos.view(2, 3, 4, 8)
    still = positions().axis_dims[0] // 2  # pairs that turn with frames
    assert torch.equal(extrapolated[:3, :4, still:], mv[0, ..., still:])
    assert torch.equal(interpolated[::2, ::2, still:], mv[0, ..., still:])
    assert not torch.equal(interpolated[1, 1, still:], mv[0, 0, 0, still:])


def learned() -> Any:
    from diffusers.models.transformers.transformer_cosmos import CosmosLearnablePositionalEmbed

    made = CosmosLearnablePositionalEmbed(
        hidden_size=12, max_size=(5, 10, 12), patch_size=(1, 2, 2)
    )
    randomize(made, seed=2)
    return made


@torch.no_grad()
def test_learned_positions_are_those_of_diffusers_and_blended_between() -> None:
    made = learned()
    tables = positions(spread="interpolate").learned(layout(), made)
    close(tables["mv"], made(torch.zeros(1, 1, 2, 6, 8))[0])
    uv = tables["uv"].view(6, 8, 12)
    third = made.pos_emb_t[2] + made.pos_emb_h[1] + made.pos_emb_w[2]
    close(uv[2, 4], third / (1e-6 + third.pow(2).mean().sqrt()))
    half = made.pos_emb_h[1:3].mean(0) + made.pos_emb_t[2] + made.pos_emb_w[0]
    close(uv[3, 0], half / (1e-6 + half.pow(2).mean().sqrt()))
    keep = {"views": torch.tensor([0, 5, 23]), "texture": torch.tensor([7])}
    packed = positions(spread="interpolate").learned(layout(keep), made)
    assert torch.equal(packed["mv"], tables["mv"][keep["views"]])
    assert torch.equal(packed["uv"], tables["uv"][keep["texture"]])


def test_grids_beyond_the_learned_positions_are_refused() -> None:
    with pytest.raises(UsageError, match="rows of 'texture'"):
        positions().learned(layout(), learned())
    assert positions().learned(layout(texture=Grid(frames=1, height=5, width=6)), learned())
    with pytest.raises(UsageError, match="frames of 'texture'"):
        positions().learned(layout(texture=Grid(frames=4, height=2, width=2)), learned())


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


def test_a_size_of_ones_own_is_plain_data() -> None:
    config = {"num_layers": 3, "patch_size": [1, 4, 4], "rope_scale": [1, 2, 2]}
    entry = entry_from_config({"name": "mine", "architecture": "cosmos", "config": config})
    spec = empty_backbone(entry).spec
    assert (spec.num_blocks, spec.patch_size) == (3, (1, 4, 4))
