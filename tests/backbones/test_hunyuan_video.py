"""HunyuanVideo against diffusers: forward at several sizes, text of two lengths, loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_models import close, diffusers_model, random_transformer

from seqtex_backbones.hunyuan_video.configs import (
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_TINY,
    HUNYUAN_VIDEO_TINY_UNGUIDED,
    HunyuanVideoEntry,
)
from seqtex_backbones.registry import empty_backbone, native_tensors
from seqtex_core.errors import UsageError
from seqtex_core.lora import lora_layers
from seqtex_core.lora_exchange import METADATA_KEY, save_mv_lora
from seqtex_core.weight_files import WeightFiles

TINY = (HUNYUAN_VIDEO_TINY, HUNYUAN_VIDEO_TINY_UNGUIDED)


def test_the_named_size_is_that_of_diffusers() -> None:
    """Keys, shapes and number of parameters of diffusers' class at its published size."""
    from diffusers import HunyuanVideoTransformer3DModel

    with torch.device("meta"):
        model = HunyuanVideoTransformer3DModel()
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    backbone = empty_backbone("hunyuan-video")
    named = native_tensors(backbone)
    assert all(tensor.is_meta for tensor in named.values())
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == want
    assert sum(tensor.numel() for tensor in named.values()) == 12_821_012_544
    spec = backbone.spec
    assert (spec.dim, spec.num_blocks, spec.text_length, spec.pooled_dim) == (3072, 60, 256, 768)


def test_config_files_of_diffusers_come_back() -> None:
    written: dict[str, Any] = json.loads(json.dumps(HUNYUAN_VIDEO.config.to_diffusers()))
    assert isinstance(written["rope_axes_dim"], list)
    assert HUNYUAN_VIDEO.differences(written) == []
    assert HUNYUAN_VIDEO.differences({"_class_name": "HunyuanVideoTransformer3DModel"}) == []
    wrong = written | {"num_single_layers": 20, "image_condition_type": "token_replace"}
    assert HUNYUAN_VIDEO.differences(wrong) == [
        "num_single_layers is 20, not 40",
        "image_condition_type is token_replace, not None",
    ]


SIZES = (
    # heads, axes of a head, dual blocks, single blocks, refiner blocks; frames, rows, columns
    (2, (4, 6, 6), 1, 1, 1, 1, 3, 5),
    (3, (2, 4, 2), 3, 2, 2, 4, 6, 3),
    (1, (16, 56, 56), 2, 4, 2, 3, 2, 7),
)


def sized(entry: HunyuanVideoEntry, size: tuple[Any, ...]) -> HunyuanVideoEntry:
    heads, axes, dual, single, refiner = size[:5]
    config = replace(
        entry.config,
        num_attention_heads=heads,
        attention_head_dim=sum(axes),
        rope_axes_dim=axes,
        num_layers=dual,
        num_single_layers=single,
        num_refiner_layers=refiner,
    )
    return replace(entry, config=config)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("entry", TINY, ids=lambda entry: entry.name)
@torch.no_grad()
def test_forward_is_that_of_diffusers(entry: HunyuanVideoEntry, size: tuple[Any, ...]) -> None:
    """Two samples with prompts of 8 and 3 rows, at the timesteps that the pipeline uses."""
    entry = sized(entry, size)
    transformer = random_transformer(entry)
    model = diffusers_model(transformer, entry)
    frames, rows, columns = size[5:]
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(2, 16, frames, 2 * rows, 2 * columns, generator=generator)
    text = torch.randn(2, 8, 20, generator=generator)
    pooled = torch.randn(2, 12, generator=generator)
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    layout = transformer.layout({"views": (frames, 2 * rows, 2 * columns)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text, text_mask=mask, pooled_text=pooled)
    guidance = torch.full((2,), 6000.0) if entry.config.guidance_embeds else None
    for timestep in (1000.0, 937.5, 20.0, 0.0):
        step = torch.full((2,), timestep)
        want = model(noisy, step, text, mask.long(), pooled, guidance, return_dict=False)[0]
        sigma = torch.full((2, frames), timestep / 1000.0)
        close(transformer({"views": noisy}, {"views": sigma}, cache)["views"], want)


@torch.no_grad()
def test_padding_is_left_out_before_anything_is_computed() -> None:
    """A single prompt needs no mask, so that any attention implementation can run."""
    transformer = random_transformer(HUNYUAN_VIDEO_TINY)
    generator = torch.Generator().manual_seed(5)
    text, pooled = torch.randn(1, 8, 20, generator=generator), torch.zeros(1, 12)
    layout = transformer.layout({"views": (1, 4, 4)}, {"views": "mv"})
    mask = (torch.arange(8) < 3)[None]
    context = transformer.prepare(layout, text=text, text_mask=mask, pooled_text=pooled)
    of_views = context.branches["mv"].context
    assert of_views.mask is None
    assert of_views.text.shape[1] == 3
    shell = transformer.backbone.shell
    calm, noisy = (shell.initial_text(of_views, torch.full((1, 1), level)) for level in (0.1, 0.9))
    assert calm.shape == (1, 3, 32)
    assert float((calm - noisy).abs().max()) > 1e-3


def test_text_that_the_model_cannot_read_is_refused() -> None:
    transformer = random_transformer(HUNYUAN_VIDEO_TINY)
    layout = transformer.layout({"views": (1, 4, 4)}, {"views": "mv"})
    text, pooled = torch.ones(2, 8, 20), torch.ones(2, 12)
    with pytest.raises(UsageError, match="pooled_text"):
        transformer.prepare(layout, text=text)
    with pytest.raises(UsageError, match="pooled_text"):
        transformer.prepare(layout, text=text, pooled_text=pooled[:, :5])
    mask = torch.ones(2, 8).bool()
    mask[0, 0] = False
    with pytest.raises(UsageError, match="first row"):
        transformer.prepare(layout, text=text, pooled_text=pooled, text_mask=mask)
    with pytest.raises(UsageError, match="image"):
        transformer.prepare(layout, text=text, pooled_text=pooled, image=torch.ones(2, 3, 4))
    transformer.prepare(layout)  # no text at all: zeros


@torch.no_grad()
def test_another_guidance_scale_is_another_model() -> None:
    text, pooled = torch.zeros(1, 8, 20), torch.zeros(1, 12)
    levels = []
    for guidance in (6.0, 1.0):
        config = replace(HUNYUAN_VIDEO_TINY.config, guidance=guidance)
        shell = random_transformer(replace(HUNYUAN_VIDEO_TINY, config=config)).backbone.shell
        added = shell.encode_text(text, pooled=pooled).pooled
        levels.append(shell.encode_time(torch.full((1, 1), 0.5), added).embedding)
    assert float((levels[0] - levels[1]).abs().max()) > 1e-2


@torch.no_grad()
def test_adapters_of_both_kinds_of_blocks_load_into_diffusers(tmp_path: Path) -> None:
    """The token refiner, whose layers have names with the same ends, gets none."""
    transformer = random_transformer(HUNYUAN_VIDEO_TINY)
    model = diffusers_model(transformer, HUNYUAN_VIDEO_TINY)
    for _, layer in lora_layers(transformer):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.3)
    save_mv_lora(transformer, tmp_path / "lora.safetensors")
    with WeightFiles([tmp_path / "lora.safetensors"]) as files:
        metadata = json.loads(files.metadata[METADATA_KEY])
        state = {name: files.read(name) for name in files}
    model.load_lora_adapter(state, prefix="transformer", metadata=metadata)
    adapted = [name for name, _ in model.named_parameters() if ".lora_A." in name]
    assert len(adapted) == 6 + 5
    assert not any("refiner" in name for name in adapted)
    told = metadata["transformer.target_modules"]  # peft adapts every layer whose name ends so
    ends = tuple(f".{name}" for name in told)
    meant = {name for name, _ in model.named_modules() if f".{name}".endswith(ends)}
    assert meant == set(told)
    generator = torch.Generator().manual_seed(6)
    noisy, text = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.ones(1, 8, 20)
    pooled = torch.randn(1, 12, generator=generator)
    layout = transformer.layout({"views": (2, 4, 4)}, {"views": "mv"})
    cache = transformer.prepare(layout, text=text, pooled_text=pooled)
    got = transformer({"views": noisy}, {"views": torch.full((1, 2), 0.5)}, cache)["views"]
    step, guidance, mask = torch.tensor([500.0]), torch.tensor([6000.0]), torch.ones(1, 8)
    close(got, model(noisy, step, text, mask, pooled, guidance, return_dict=False)[0])
