"""CogVideoX against diffusers: forward and sampling at several sizes, loading, positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers_models import close, diffusers_model, random_transformer
from torch import Tensor

from seqtex_backbones.cogvideox.configs import (
    COGVIDEOX_1_5_5B,
    COGVIDEOX_2B,
    COGVIDEOX_5B,
    COGVIDEOX_TINY_1_5,
    COGVIDEOX_TINY_2B,
    COGVIDEOX_TINY_5B,
    CogVideoXEntry,
)
from seqtex_backbones.cogvideox.positions import SinusoidalPositions
from seqtex_backbones.cogvideox.schedule import to_vp
from seqtex_backbones.registry import (
    empty_backbone,
    native_tensors,
)
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.samplers import EulerSampler

TINY = (COGVIDEOX_TINY_2B, COGVIDEOX_TINY_5B, COGVIDEOX_TINY_1_5)

# Keys and parameters, from the sizes of the published configs.
PUBLISHED = {
    "cogvideox-2b": (736, 30, 1920, 30, 64, 64),
    "cogvideox-5b": (1024, 48, 3072, 42, 64, 64),
    "cogvideox-1.5-5b": (1024, 48, 3072, 42, 128, 128),
}


def parameters(dim: int, layers: int, patch: int, out: int) -> int:
    """Counted by hand: embedders, head, and per block two norms, attention, feed-forward."""

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    norm = 2 * dim
    block = 2 * (linear(512, 6 * dim) + norm) + 4 * linear(dim, dim) + 2 * 2 * 64
    block += linear(dim, 4 * dim) + linear(4 * dim, dim)
    embedders = linear(patch, dim) + linear(4096, dim) + linear(dim, 512) + linear(512, 512)
    head = norm + linear(512, 2 * dim) + norm + linear(dim, out)
    return embedders + layers * block + head


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_the_published_ones(name: str) -> None:
    keys, _, dim, layers, patch, out = PUBLISHED[name]
    backbone = empty_backbone(name)
    named = native_tensors(backbone)
    assert all(tensor.is_meta for tensor in named.values())
    assert len(named) == keys
    assert sum(tensor.numel() for tensor in named.values()) == parameters(dim, layers, patch, out)
    spec = backbone.spec
    assert (spec.dim, spec.head_dim, spec.text_length, spec.joint_text) == (dim, 64, 226, True)


def test_parameter_counts_in_billions() -> None:
    counts = [
        sum(tensor.numel() for tensor in native_tensors(empty_backbone(name)).values())
        for name in PUBLISHED
    ]
    assert [round(count / 1e9, 3) for count in counts] == [1.694, 5.570, 5.571]


def test_config_files_of_diffusers_come_back() -> None:
    for entry in (COGVIDEOX_2B, COGVIDEOX_5B, COGVIDEOX_1_5_5B):
        written: dict[str, Any] = {
            **entry.config.to_diffusers(),
            "_class_name": "CogVideoXTransformer3DModel",
            "activation_fn": "gelu-approximate",
        }
        assert entry.differences(written) == []
    written["sample_height"] = 300
    assert COGVIDEOX_1_5_5B.differences(written) == []
    wrong = {**COGVIDEOX_5B.config.to_diffusers(), "num_layers": 30, "sample_height": 96}
    assert COGVIDEOX_5B.differences(wrong) == [
        "num_layers is 30, not 42",
        "sample_height is 96, not 60",
    ]
    image = {**COGVIDEOX_5B.config.to_diffusers(), "use_learned_positional_embeddings": True}
    assert len(COGVIDEOX_5B.differences(image)) == 1


SIZES = (
    # heads, head dim, blocks, frames, rows, columns of tokens
    (2, 16, 2, 1, 3, 5),
    (3, 32, 3, 4, 6, 9),
    (1, 64, 4, 3, 7, 2),
)


def sized(entry: CogVideoXEntry, size: tuple[int, ...]) -> CogVideoXEntry:
    heads, head_dim, blocks = size[:3]
    config = replace(
        entry.config,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=blocks,
    )
    return replace(entry, config=config)


def pipeline_rope(config: Any, grid: Grid) -> tuple[Tensor, Tensor] | None:
    """As the pipeline of diffusers makes it."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    if not config.use_rotary_positional_embeddings:
        return None
    height, width = config.sample_height // 2, config.sample_width // 2
    where: dict[str, Any] = {
        "crops_coords": None,
        "grid_type": "slice",
        "max_size": (max(height, grid.height), max(width, grid.width)),
    }
    if config.patch_size_t is None:
        crop = get_resize_crop_region_for_grid((grid.height, grid.width), width, height)
        where = {"crops_coords": crop}
    tables: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(
        config.attention_head_dim,
        grid_size=(grid.height, grid.width),
        temporal_size=grid.frames,
        **where,
    )
    return tables


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_forward_is_that_of_diffusers_at_whole_timesteps(
    entry: CogVideoXEntry, size: tuple[int, ...]
) -> None:
    """Positions, schedule and conversion are all diffusers' own on their side."""
    from diffusers import CogVideoXDDIMScheduler

    entry = sized(entry, size)
    transformer = random_transformer(entry)
    model = diffusers_model(transformer, entry)
    config = model.config
    frames, rows, columns = size[3:]
    grid = Grid(frames=frames, height=rows, width=columns)
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(2, 16, frames, 2 * rows, 2 * columns, generator=generator)
    text = torch.randn(2, 8, 20, generator=generator)
    scheduler = CogVideoXDDIMScheduler(
        snr_shift_scale=entry.config.snr_shift, rescale_betas_zero_snr=True
    )
    layout = transformer.layout({"views": (frames, 2 * rows, 2 * columns)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text)
    for timestep in (0, 19, 500, 979, 999):
        given = noisy.transpose(1, 2).repeat_interleave(config.patch_size_t or 1, dim=1)
        rope = pipeline_rope(config, grid)
        step = torch.full((2,), timestep)
        v = model(given, text, step, image_rotary_emb=rope, return_dict=False)[0]
        v = v.unflatten(1, (frames, -1)).mean(2).transpose(1, 2)
        signal = float(scheduler.alphas_cumprod[timestep]) ** 0.5
        noise = (1 - float(scheduler.alphas_cumprod[timestep])) ** 0.5
        want = (signal * v + noise * noisy) - (signal * noisy - noise * v)  # eps - x0
        sigma = torch.full((2, frames), noise / (signal + noise))
        latents = {"views": noisy / (signal + noise)}
        close(transformer(latents, {"views": sigma}, cache)["views"], want)


@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_native_sampling_is_that_of_diffusers(entry: CogVideoXEntry) -> None:
    """Euler on the native levels against DDIM driven by hand."""
    from diffusers import CogVideoXDDIMScheduler

    transformer = random_transformer(entry)
    model = diffusers_model(transformer, entry)
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(1, 16, 4, 8, 10, generator=generator)
    text = torch.randn(1, 8, 20, generator=generator)
    repeat = model.config.patch_size_t or 1
    scheduler = CogVideoXDDIMScheduler(
        snr_shift_scale=entry.config.snr_shift,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(10)
    rope = pipeline_rope(model.config, Grid(frames=4, height=4, width=5))
    want = start.transpose(1, 2)
    for timestep in scheduler.timesteps:
        given = want.repeat_interleave(repeat, dim=1)
        v = model(given, text, timestep[None], image_rotary_emb=rope, return_dict=False)[0]
        v = v.unflatten(1, (4, -1)).mean(2)
        want = scheduler.step(v, timestep, want, return_dict=False)[0]

    shell: Any = transformer.backbone.shell
    sigmas = shell.schedule.native_sigmas(10)
    sampler = EulerSampler(sigmas)
    layout = transformer.layout({"views": (4, 8, 10)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text)
    got = start
    for index, sigma in enumerate(sigmas[:-1]):
        levels = {"views": torch.full((1, 4), sigma)}
        got = sampler.step(transformer({"views": got}, levels, cache)["views"], got, index)
    close(got, want.transpose(1, 2))
    assert float((got - start).abs().max()) > 0.1


@torch.no_grad()
def test_rotary_positions_of_a_finer_texture_may_be_aligned() -> None:
    """Token 2i of the texture then lies on token i of the views, in both axes; else not."""
    config = COGVIDEOX_TINY_5B.config  # 12 x 18 latents: square views start at column 1.5 -> 2
    shared = {}
    for end in ("diffusers", "aligned"):
        sizes: dict[str, Any] = {"linspace_end": end}
        entry = replace(COGVIDEOX_TINY_5B, config=replace(config, **sizes))
        transformer = random_transformer(entry)
        sizes = {"views": (1, 8, 8), "texture": (1, 16, 16)}
        layout = transformer.layout(sizes, {"views": "mv", "texture": "uv"})
        tables = transformer.backbone.shell.rope(layout)
        assert tables is not None
        mv, uv = (tables[stream].cos[:, 2:] for stream in ("mv", "uv"))  # less the frame's pairs
        views, texture = mv.view(4, 4, -1), uv.view(8, 8, -1)[::2, ::2]
        shared[end] = bool(torch.allclose(views, texture, rtol=0, atol=1e-6))
        inputs = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(6))
        text = torch.ones(1, 8, 20)
        views_only = transformer.layout({"views": (1, 8, 8)}, {"views": "mv"})
        cache = transformer.prepare(views_only, text=text)
        level = torch.tensor([0.5])
        got = transformer({"views": inputs}, {"views": level[None]}, cache)["views"]
        state = transformer.mv_state_dict()
        close(got, transformer.backbone.reference_velocity(state, inputs, level, text))
    assert shared == {"diffusers": False, "aligned": True}


def test_a_finer_texture_lies_between_the_views_tokens() -> None:
    """Sinusoids: token 2i of a grid twice as fine is where token i of the views is.

    So for each axis by itself: here rows twice as fine, columns four times.
    """
    positions = SinusoidalPositions(dim=48)
    views, texture = Grid(frames=2, height=3, width=4), Grid(frames=1, height=6, width=16)
    groups = (
        FrameGroup(name="views", stream="mv", grid=views),
        FrameGroup(name="texture", stream="uv", grid=texture),
    )
    layout = TokenLayout.of(groups)
    tables = positions.table(layout)
    mv, uv = tables["mv"].view(2, 3, 4, 48), tables["uv"].view(6, 16, 48)
    assert torch.equal(uv[::2, ::4, 12:], mv[0, :, :, 12:])
    third = TokenLayout.of(
        [FrameGroup(name="a", stream="mv", grid=Grid(frames=3, height=1, width=1))]
    )
    assert torch.equal(uv[0, 0, :12], positions.table(third)["mv"][2, :12])
    keep = {"views": torch.tensor([0, 5, 23]), "texture": torch.tensor([7])}
    packed = positions.table(TokenLayout(groups=groups, keep=keep))
    assert torch.equal(packed["mv"], tables["mv"][keep["views"]])
    assert torch.equal(packed["uv"], tables["uv"][keep["texture"]])


def test_latents_are_scaled_to_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 3, 64, 64, generator=generator)
    sigma = torch.tensor([[0.1, 0.5, 0.9]])
    level = sigma[:, None, :, None, None]
    scaled = to_vp((1 - level) * clean + level * noise, sigma)
    # 16384 samples per frame: the std of a sample variance is 0.011
    assert torch.allclose(scaled.var(dim=(0, 1, 3, 4)), torch.ones(3), atol=0.05)
