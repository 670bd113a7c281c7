"""Named Wan sizes: parameter counts, config files, the key map."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqtex_backbones.registry import BACKBONES, empty_backbone, native_tensors
from seqtex_backbones.wan.backbone import WanBackbone
from seqtex_backbones.wan.configs import (
    WAN_2_1_I2V_14B,
    WAN_2_1_T2V_1_3B,
    WAN_2_2_TI2V_5B,
    WAN_TINY,
    WanConfig,
    WanEntry,
)
from seqtex_backbones.wan.keys import diffusers_names, to_diffusers, to_original
from seqtex_backbones.wan.sizes import original_config_json
from seqtex_core.errors import UsageError

# Keys and parameters of the published checkpoints.
PUBLISHED = {
    "wan2.1-t2v-1.3b": (825, 1_418_996_800),
    "wan2.1-t2v-14b": (1095, 14_288_491_584),
    "wan2.1-i2v-14b": (1303, 16_394_878_784),
    "wan2.2-ti2v-5b": (825, 4_999_787_712),
}

IMAGE_AND_FRAMES = WanEntry(
    name="flf2v",
    summary="",
    config=WanConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        ffn_dim=64,
        in_channels=36,
        image_dim=20,
        added_kv_proj_dim=48,
        pos_embed_seq_len=10,
    ),
)


def numbers(entry: WanEntry | str) -> tuple[int, int]:
    named = native_tensors(empty_backbone(entry))
    assert all(tensor.is_meta for tensor in named.values())
    return len(named), sum(tensor.numel() for tensor in named.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_the_published_ones(name: str) -> None:
    assert numbers(name) == PUBLISHED[name]


def test_every_registered_entry_carries_its_name_and_a_summary() -> None:
    assert {*PUBLISHED, "wan-tiny", "wan-tiny-i2v"} <= set(BACKBONES.names())
    for name in BACKBONES:
        entry = BACKBONES.get(name)
        assert entry.name == name
        assert entry.summary
        assert entry.build.__doc__


def test_image_models_read_their_latent_channels_only() -> None:
    spec = empty_backbone("wan2.1-i2v-14b").spec
    assert (spec.latent_channels, spec.image_dim, spec.dim) == (16, 1280, 5120)
    assert empty_backbone("wan2.1-i2v-14b").shell.new_latent_embed()(
        torch.empty(1, 16, 1, 4, 4, device="meta")
    ).shape == (1, 4, 5120)


def test_unknown_names_are_refused_with_the_closest() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'wan2\.1-t2v-14b'"):
        empty_backbone("wan2.1-t2v-14")


def test_config_files_of_diffusers_come_back() -> None:
    for entry in (WAN_2_1_T2V_1_3B, WAN_2_1_I2V_14B, WAN_2_2_TI2V_5B):
        written: dict[str, Any] = {
            **entry.config.to_diffusers(),
            "_class_name": "WanTransformer3DModel",
            "_diffusers_version": "0.33.0",
            "rope_max_seq_len": 1024,
            "patch_size": [1, 2, 2],
        }
        assert entry.differences(written) == []
    wrong = {**WAN_2_1_T2V_1_3B.config.to_diffusers(), "num_attention_heads": 24}
    assert WAN_2_1_T2V_1_3B.differences(wrong) == ["num_attention_heads is 24, not 12"]


@pytest.mark.parametrize(
    ("entry", "theirs"),
    [
        (WAN_2_1_T2V_1_3B, {"model_type": "t2v", "dim": 1536, "num_heads": 12, "ffn_dim": 8960}),
        (WAN_2_1_I2V_14B, {"model_type": "i2v", "dim": 5120, "num_heads": 40, "ffn_dim": 13824}),
        (WAN_2_2_TI2V_5B, {"model_type": "ti2v", "dim": 3072, "num_heads": 24, "ffn_dim": 14336}),
    ],
)
def test_config_files_of_the_authors_are_understood(
    entry: WanEntry, theirs: dict[str, Any]
) -> None:
    config = entry.config
    written = {
        "_class_name": "WanModel",
        "eps": 1e-06,
        "freq_dim": 256,
        "in_dim": config.in_channels,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "text_len": 512,
        **theirs,
    }
    assert entry.differences(written) == []
    assert entry.differences({**written, "num_layers": 3}) == [
        f"num_layers is 3, not {config.num_layers}"
    ]
    # what is written for the authors' programs tells the same
    assert original_config_json(config) == written


def test_a_model_of_first_and_last_frames_is_called_by_its_kind() -> None:
    assert original_config_json(IMAGE_AND_FRAMES.config)["model_type"] == "flf2v"


def test_a_config_of_another_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="CogVideoXTransformer3DModel"):
        WAN_TINY.differences({"_class_name": "CogVideoXTransformer3DModel"})


@pytest.mark.parametrize("change", [{"qk_norm": None}, {"cross_attn_norm": False}])
def test_variants_that_the_adapter_does_not_compute_are_refused(change: dict[str, Any]) -> None:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(**{**WAN_TINY.config.to_diffusers(), **change})
    with pytest.raises(UsageError, match="Wan config"):
        WanBackbone(model)


def test_fewer_input_than_output_channels_are_refused() -> None:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(**{**WAN_TINY.config.to_diffusers(), "in_channels": 8})
    with pytest.raises(UsageError, match="at least the 16 out_channels, got 8"):
        WanBackbone(model)


@pytest.mark.parametrize("entry", [WAN_TINY, IMAGE_AND_FRAMES], ids=lambda entry: entry.name)
def test_the_key_map_is_a_bijection(entry: WanEntry) -> None:
    native = list(native_tensors(empty_backbone(entry)))
    original = [to_original(name) for name in native]
    assert len(set(original)) == len(native)
    assert not set(original) & (set(native) - {"patch_embedding.weight", "patch_embedding.bias"})
    assert [to_diffusers(name) for name in original] == native
    assert list(diffusers_names(original).values()) == native
    assert list(diffusers_names(native).values()) == native


@pytest.mark.parametrize(
    ("original", "native"),
    [
        ("blocks.7.norm3.weight", "blocks.7.norm2.weight"),
        ("blocks.7.norm2.weight", "blocks.7.norm3.weight"),
        ("blocks.0.modulation", "blocks.0.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("head.head.bias", "proj_out.bias"),
        ("blocks.1.self_attn.o.bias", "blocks.1.attn1.to_out.0.bias"),
        ("blocks.1.cross_attn.norm_k.weight", "blocks.1.attn2.norm_k.weight"),
        ("blocks.1.cross_attn.k.weight", "blocks.1.attn2.to_k.weight"),
        ("blocks.1.cross_attn.k_img.weight", "blocks.1.attn2.add_k_proj.weight"),
        ("blocks.1.cross_attn.norm_k_img.weight", "blocks.1.attn2.norm_added_k.weight"),
        ("blocks.12.ffn.2.weight", "blocks.12.ffn.net.2.weight"),
        ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
        ("time_embedding.2.bias", "condition_embedder.time_embedder.linear_2.bias"),
        ("text_embedding.0.bias", "condition_embedder.text_embedder.linear_1.bias"),
        ("img_emb.proj.1.weight", "condition_embedder.image_embedder.ff.net.0.proj.weight"),
        ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
        ("patch_embedding.weight", "patch_embedding.weight"),
        ("vae.encoder.weight", "vae.encoder.weight"),
    ],
)
def test_single_keys(original: str, native: str) -> None:
    assert to_diffusers(original) == native
    assert to_original(native) == original


def test_the_key_map_agrees_with_diffusers_own() -> None:
    """diffusers lacks one line, the positions of first-last-frame models."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    native = list(native_tensors(empty_backbone(IMAGE_AND_FRAMES)))
    marked = {to_original(name): index for index, name in enumerate(native)}
    del marked["img_emb.emb_pos"]
    theirs = convert_wan_transformer_to_diffusers(dict(marked))
    assert theirs == {to_diffusers(name): index for name, index in marked.items()}
