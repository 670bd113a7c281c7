"""What all families of diffusers models can do: names, sizes, refusals, loading, precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers_models import diffusers_model, random_transformer

from seqtex_backbones.diffusers_parts.entry import DiffusersEntry
from seqtex_backbones.entry_config import ARCHITECTURES, entry_from_config
from seqtex_backbones.registry import BACKBONES, empty_backbone, load_backbone, native_tensors
from seqtex_core.errors import UsageError, WeightsError
from seqtex_core.frames import FrameGroup, Grid, TokenLayout
from seqtex_core.packed_inputs import positions
from seqtex_core.rope import Rope

Entry = DiffusersEntry[Any]
Sizes = dict[str, Any]

# diffusers' Mochi asks for fp32 autocast, which exists on GPUs only; on a CPU it is fp32 anyway.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")

TINY = (
    "cogvideox-tiny-2b",
    "cogvideox-tiny-5b",
    "cogvideox-tiny-1.5",
    "cosmos-tiny",
    "cosmos-tiny-video",
    "hunyuan-video-tiny",
    "hunyuan-video-tiny-unguided",
    "ltx-video-tiny",
    "ltx-video-tiny-0.9.5",
    "mochi-tiny",
    "wan-tiny",
)
FULL = tuple(name for name in BACKBONES if "tiny" not in name and "sketch" not in name)

IMPOSSIBLE: dict[str, list[tuple[str, Sizes]]] = {
    "cogvideox": [
        ("num_layers", {"num_layers": 0}),
        ("snr_shift", {"snr_shift": -1.0}),
        (
            "attention_head_dim",
            {"attention_head_dim": 24, "use_rotary_positional_embeddings": True},
        ),
        ("num_attention_heads", {"num_attention_heads": 1, "attention_head_dim": 24}),
        ("patch_size_t", {"patch_size_t": 2}),
        ("linspace_end", {"linspace_end": "aligned"}),  # sinusoids are not interpolated this way
        ("linspace_end", {"linspace_end": "elsewhere", "use_rotary_positional_embeddings": True}),
        ("CogVideoX sizes", {"num_blocks": 2}),
    ],
    "cosmos": [
        ("num_layers", {"num_layers": 0}),
        ("attention_head_dim", {"attention_head_dim": 10}),
        ("attention_head_dim", {"attention_head_dim": 25}),
        ("rope_scale", {"rope_scale": [1.0, -1.0, 1.0]}),
        ("fps", {"fps": 0.0}),
        ("objective", {"objective": "guess"}),
        ("spread", {"spread": "sideways"}),
        ("Cosmos sizes", {"num_blocks": 2}),
    ],
    "hunyuan-video": [
        ("num_layers", {"num_layers": 0}),
        ("rope_axes_dim", {"attention_head_dim": 64}),
        ("rope_axes_dim", {"attention_head_dim": 16, "rope_axes_dim": (4, 5, 7)}),
        ("spread", {"spread": "stretch"}),
        ("HunyuanVideo sizes", {"num_blocks": 2}),
    ],
    "ltx-video": [
        ("num_layers", {"num_layers": 0}),
        ("attention_head_dim", {"attention_head_dim": 21}),
        ("attention_head_dim", {"num_attention_heads": 1, "attention_head_dim": 4}),
        ("frame_rate", {"frame_rate": 0.0}),
        ("spread", {"spread": "sideways"}),
        ("LTX-Video sizes", {"num_blocks": 2}),
    ],
    "mochi": [
        ("num_layers", {"num_layers": 0}),
        ("attention_head_dim", {"attention_head_dim": 15}),
        ("text_embed_dim", {"text_embed_dim": 20}),
        ("Mochi sizes", {"num_blocks": 2}),
    ],
}
REFUSED: dict[str, list[Sizes]] = {
    "cogvideox-tiny-5b": [
        {"in_channels": 32},
        {"ofs_embed_dim": 8},
        {"use_learned_positional_embeddings": True},
    ],
    "cosmos-tiny": [
        {"img_context_dim_in": 8},
        {"controlnet_block_every_n": 7},
        {"patch_size": (2, 2, 2)},
        {"in_channels": 12},
    ],
    "hunyuan-video-tiny": [
        {"in_channels": 33},
        {"image_condition_type": "token_replace"},
        {"image_condition_type": "latent_concat"},
        {"patch_size_t": 2},
        {"qk_norm": "layer_norm"},
    ],
    "ltx-video-tiny": [
        {"patch_size": 2},
        {"norm_elementwise_affine": True},
        {"out_channels": 24},
    ],
    "mochi-tiny": [{"out_channels": 24}],
}
OWN: dict[str, tuple[Sizes, int]] = {
    "cogvideox": ({"num_layers": 3}, 3),
    "cosmos": ({"num_layers": 3, "patch_size": [1, 4, 4], "rope_scale": [1, 2, 2]}, 3),
    "hunyuan-video": ({"num_layers": 1, "num_single_layers": 2, "guidance": 1.0}, 3),
    "ltx-video": ({"num_layers": 3}, 3),
    "mochi": ({"num_layers": 3, "attention_head_dim": 32}, 3),
}


def entry_of(name: str) -> Entry:
    entry = BACKBONES.get(name)
    assert isinstance(entry, DiffusersEntry)
    return entry


@pytest.mark.parametrize("name", [*FULL, *TINY])
def test_entries_carry_their_name_and_a_summary(name: str) -> None:
    entry = entry_of(name)
    assert entry.name == name
    assert entry.summary


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_have_the_keys_and_shapes_of_diffusers(name: str) -> None:
    entry, named = entry_of(name), native_tensors(empty_backbone(name))
    with torch.device("meta"):
        model = getattr(diffusers, entry.diffusers_class)(**entry.config.to_diffusers())
    want = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in named.items()} == want
    assert all(tensor.is_meta for tensor in named.values())


@pytest.mark.parametrize(
    ("architecture", "field", "sizes"),
    [(name, field, sizes) for name, cases in IMPOSSIBLE.items() for field, sizes in cases],
)
def test_sizes_that_cannot_be_are_named(architecture: str, field: str, sizes: Sizes) -> None:
    with pytest.raises(UsageError) as caught:
        ARCHITECTURES.get(architecture)("mine", sizes)
    assert caught.value.subject.startswith(field)


@pytest.mark.parametrize("architecture", OWN)
def test_a_size_of_ones_own_is_plain_data(architecture: str) -> None:
    sizes, blocks = OWN[architecture]
    entry = entry_from_config({"name": "mine", "architecture": architecture, "config": sizes})
    assert len(empty_backbone(entry).blocks) == blocks


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, all_ in REFUSED.items() for change in all_]
)
def test_variants_that_the_adapter_does_not_compute_are_refused(name: str, change: Sizes) -> None:
    """Built by diffusers, they are named by the config's own field."""
    entry = entry_of(name)
    with torch.device("meta"):
        config = {**entry.config.to_diffusers(), **change}
        model = getattr(diffusers, entry.diffusers_class)(**config)
        with pytest.raises(UsageError, match=next(iter(change))):
            type(entry.build())(model)


@pytest.mark.parametrize("name", TINY)
def test_configs_of_another_architecture_are_refused(name: str) -> None:
    entry = entry_of(name)
    assert entry.differences({**entry.config.to_diffusers()}) == []
    with pytest.raises(UsageError, match="FluxTransformer2DModel"):
        entry.differences({"_class_name": "FluxTransformer2DModel"})


@pytest.mark.parametrize("name", [name for name in TINY if not name.startswith("wan")])
def test_weights_come_from_a_folder_of_diffusers(name: str, tmp_path: Path) -> None:
    """In several shards; another number of blocks is seen before a tensor is read."""
    entry = entry_of(name)
    model = diffusers_model(random_transformer(entry), entry)
    model.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    want, got = model.state_dict(), native_tensors(load_backbone(name, weights=tmp_path))
    assert set(got) == set(want)
    assert all(torch.equal(got[key], want[key]) for key in want)
    layers = entry.config.num_layers
    other = replace(entry, config=replace(entry.config, num_layers=layers + 1))
    with pytest.raises(WeightsError, match=f"num_layers is {layers}, not {layers + 1}"):
        load_backbone(other, weights=tmp_path)


@pytest.mark.parametrize("name", TINY)
def test_half_precision_leaves_noise_levels_exact(name: str) -> None:
    """A step of one timestep, below bf16's own at the upper level, is still seen in each frame."""
    backbone = load_backbone(name, seed=0, dtype=torch.bfloat16)
    sigma = torch.tensor([[0.0708, 0.985]])
    time, moved = (backbone.shell.encode_time(sigma + step) for step in (0.0, 1e-3))
    assert time.embedding.dtype in (torch.bfloat16, torch.float32)
    assert bool((time.embedding != moved.embedding).any(dim=-1).all())


@pytest.mark.parametrize("name", TINY)
def test_positions_are_exact_under_autocast(name: str) -> None:
    """Learned angles are products, which autocast would round to three digits."""
    shell = load_backbone(name, seed=0).shell
    groups = [
        FrameGroup(name="views", stream="mv", grid=Grid(frames=4, height=6, width=6)),
        FrameGroup(name="texture", stream="uv", grid=Grid(frames=1, height=12, width=12)),
    ]
    with torch.no_grad():
        exact = positions(shell, TokenLayout.of(groups))
        with torch.autocast("cpu", torch.bfloat16):
            made = positions(shell, TokenLayout.of(groups))
    assert any(part is not None for part in exact)
    for one, other in zip(exact, made, strict=True):
        for stream in one or ():
            pair = one[stream], other[stream]
            tensors = [(x.cos, x.sin) if isinstance(x, Rope) else (x,) for x in pair]
            for a, b in zip(*tensors, strict=True):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
