"""Tiny random image models in the layout of diffusers: the real classes, a few thousand weights."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import nn

LETTERS = string.ascii_lowercase + ",."
_SDXL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "in_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "transformer_layers_per_block": (1, 1),
    "projection_class_embeddings_input_dim": 6 * 4 + 16,
}
_FLUX: dict[str, Any] = {
    "patch_size": 1,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": [4, 4, 8],
    "guidance_embeds": True,
}


def build_image_models(folder: Path) -> None:
    """Save ``sdxl``, ``flux`` and ``flux-depth`` with ControlNets for the first two.

    Their ControlNets: ``sdxl-depth``, ``sdxl-normal``, ``sdxl-union``, ``sd15-depth`` (of another
    text width), ``flux-net-depth``, ``flux-net-normal`` and ``flux-union``.
    """
    from diffusers import (
        ControlNetModel,
        ControlNetUnionModel,
        FluxControlNetModel,
        FluxControlPipeline,
        FluxPipeline,
    )

    from seqtex.text_to_image.quiet import quiet_loading

    with quiet_loading(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _sdxl().save_pretrained(folder / "sdxl")
        embedding = {"conditioning_embedding_out_channels": (16, 32)}
        for name, width in (("sdxl-depth", 32), ("sdxl-normal", 32), ("sd15-depth", 24)):
            net = ControlNetModel(cross_attention_dim=width, **embedding, **_SDXL)
            _with_effect(net).save_pretrained(folder / name)
        union = ControlNetUnionModel(
            cross_attention_dim=32,
            num_trans_channel=8,
            num_proj_channel=8,
            num_trans_head=2,
            num_trans_layer=1,
            num_control_type=6,
            **embedding,
            **_SDXL,
        )
        _with_effect(union).save_pretrained(folder / "sdxl-union")
        _flux(FluxPipeline, 4).save_pretrained(folder / "flux")
        _flux(FluxControlPipeline, 8).save_pretrained(folder / "flux-depth")
        for name, modes in (("flux-net-depth", None), ("flux-net-normal", None), ("flux-union", 7)):
            net = FluxControlNetModel(in_channels=4, num_mode=modes, **_FLUX)
            _with_effect(net).save_pretrained(folder / name)


def _with_effect(network: nn.Module) -> Any:
    """The network with every layer that starts at zero filled, so that the control is seen."""
    for weight in network.parameters():
        if not bool(weight.any()):
            nn.init.normal_(weight, std=0.5)
    return network


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    unet = UNet2DConditionModel(
        sample_size=16,
        out_channels=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        **_SDXL,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4, (8, 8)),
        text_encoder=_clip(CLIPTextModel),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )


def _flux(pipeline: Any, in_channels: int) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel, T5TokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    width = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(1, (8,), shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(CLIPTextModel),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=T5EncoderModel(width),
        tokenizer_2=T5TokenizerFast(
            vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)],
            extra_ids=0,
            model_max_length=512,
        ),
        transformer=FluxTransformer2DModel(in_channels=in_channels, out_channels=4, **_FLUX),
    )


def _vae(latents: int, channels: tuple[int, ...], **options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=channels,
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        latent_channels=latents,
        **options,
    )


def _clip(kind: Any) -> Any:
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=160,
            projection_dim=16,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def _clip_tokenizer() -> Any:
    """Reads letters; 160 of them, where the real one reads 77 words and parts of words."""
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{one}</w>" for one in LETTERS)]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=160)
