"""Models of other families than Wan, put together as the catalog does: they paint a texture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seqtex.models.catalog import CATALOG, CatalogEntry
from seqtex.models.config import ModelConfig, TextPadding
from seqtex_backbones.codecs.protocol import SYMMETRIC_RANGES
from seqtex_core.decoupled_config import DecoupledConfig

LTX_VAE = {
    "latent_channels": 12,
    "block_out_channels": [8, 8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8, 8],
    "layers_per_block": [1, 1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1, 1],
}
WAN_VAE = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def model(name: str, codec: str, vae: dict[str, Any], padding: TextPadding) -> ModelConfig:
    return ModelConfig(
        name=f"paints-with-{name}",
        summary="for tests",
        backbone={"name": name},
        codec={
            "codec": codec,
            "vae": vae,
            "ranges": SYMMETRIC_RANGES.to_config(),
            "sample_posterior": False,
            "frames_per_chunk": 1,
        },
        decoupled=DecoupledConfig(lora_rank=4),
        view_size=64,
        uv_size=128,
        supersample=1,
        text_padding=padding,
        dtype="bfloat16",
    )


MODELS = {
    "ltx-video-tiny": model("ltx-video-tiny", "ltx_vae", LTX_VAE, "cut"),
    "cosmos-tiny": model("cosmos-tiny", "wan_vae", WAN_VAE, "zero"),
}
TOKEN_PIXELS = {"ltx-video-tiny": 32, "cosmos-tiny": 16}


@pytest.fixture(params=MODELS)
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model of the catalog, while the test runs."""
    config = MODELS[request.param]
    monkeypatch.setitem(sys.modules, "tests_only", SimpleNamespace(CONFIG=config))
    entry = CatalogEntry(
        name=config.name,
        summary="for tests",
        hub_id="owner/tiny",
        size="no size to speak of",
        text="T5",
        config="tests_only:CONFIG",
        token_pixels=TOKEN_PIXELS[request.param],
        uv_size=config.uv_size,
    )
    CATALOG.register(config.name, entry)
    yield config.name
    del CATALOG._entries[config.name]


def test_a_dry_run_paints(seqtex: Callable[..., Any], work: Path, named: str) -> None:
    """From a picture to a texture through codec, both branches and sampler, on seeded weights."""
    command = ["texture", work / "figure.glb", "--image", work / "views" / "0_front.png"]
    steps = work / "steps"
    options = ["--model", named, "--random-weights", "3", "--steps", "2"]
    outcome = seqtex(*command, *options, "--save-intermediates", steps)
    assert outcome.code == 0, outcome.err
    painted = np.asarray(Image.open(steps / "textures" / "texture0.png"))
    assert painted.shape == (128, 128, 3)
    assert painted.std() > 0
