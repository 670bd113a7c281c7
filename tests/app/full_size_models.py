"""A named model like the full-size ones, small enough for tests, and its files on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from seqtex.models.catalog import CatalogEntry
from seqtex.models.config import ModelConfig
from seqtex_backbones.codecs.protocol import SYMMETRIC_RANGES
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_core.decoupled_config import DecoupledConfig

NAME = "full-tiny"
VAE = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
CONFIG = ModelConfig(
    name=NAME,
    summary="for tests",
    backbone={"name": "wan-tiny"},
    codec={
        "codec": "wan_vae",
        "vae": VAE,
        "ranges": SYMMETRIC_RANGES.to_config(),
        "sample_posterior": False,
        "frames_per_chunk": 1,
    },
    decoupled=DecoupledConfig(lora_rank=4),
    view_size=32,
    uv_size=64,
    supersample=1,
    dtype="bfloat16",
)
ENTRY = CatalogEntry(
    name=NAME,
    summary="for tests",
    hub_id="owner/full-tiny",
    size="no size to speak of",
    text="umT5",
    config="tests_only:CONFIG",
    uv_size=64,
)


def write_pipeline(folder: Path) -> Path:
    """A folder as diffusers writes it: ``transformer/`` and ``vae/`` with random weights."""
    torch.manual_seed(5)
    WanTransformer3DModel(**WAN_TINY.config.to_diffusers()).save_pretrained(folder / "transformer")
    AutoencoderKLWan(**VAE).save_pretrained(folder / "vae")
    return folder


def write_text_encoder(folder: Path) -> Path:
    """``text_encoder/`` and ``tokenizer/``: a random umT5 whose rows are as wide as wan-tiny's."""
    import tokenizers
    import transformers

    words = ["<pad>", "</s>", "<unk>", "a", "red", "wooden", "chair"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = transformers.UMT5Config(
        vocab_size=8, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    transformers.UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder
