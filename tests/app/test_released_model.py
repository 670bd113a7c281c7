"""The released preset from end to end: what the pipeline shows its networks, and tells them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from seqtex.models.catalog import CATALOG
from seqtex.models.config import ModelConfig
from seqtex.models.load import SeqTexModel, load_model
from seqtex.models.released import PAPER_SHIFT, released_model_config
from seqtex.models.sources import ModelSources
from seqtex.pipeline import SeqTexPipeline
from seqtex.run_options import RunOptions
from seqtex_backbones.codecs.protocol import RELEASED_RANGES, Content, ValueRanges
from seqtex_backbones.seqtex_release import RELEASED_DECOUPLED
from seqtex_backbones.wan.configs import WAN_TINY
from seqtex_core.checkpoint import unique_tensors
from seqtex_core.errors import WeightsError
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.lora import lora_layers
from seqtex_core.noise import draw_noise

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from released_peer import CONDITION_LEVEL, PeerSizes, released_state

SIZES = PeerSizes()
VAE = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
NAME = "released-tiny"
WAN = {**asdict(WAN_TINY.config), "text_length": 8}


def config() -> ModelConfig:
    """The preset on small networks."""
    tiny = released_model_config(
        decoupled=replace(RELEASED_DECOUPLED, lora_rank=SIZES.rank, lora_alpha=SIZES.alpha),
        backbone={"name": NAME, "architecture": "wan", "config": WAN},
        vae=VAE,
    )
    return replace(tiny, name=NAME, view_size=32, uv_size=64, supersample=1, dtype="float32")


@pytest.fixture(autouse=True)
def _in_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "released_tiny", sys.modules[__name__])
    entry = replace(CATALOG.get("seqtex-released"), name=NAME, config="released_tiny:config")
    CATALOG.register(NAME, entry)
    yield
    del CATALOG._entries[NAME]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    AutoencoderKLWan(**VAE).save_pretrained(folder / "vae")
    (folder / "transformer").mkdir()
    save_file(released_state(SIZES), folder / "transformer" / "model.safetensors")
    told = {"_class_name": "WanT2TexTransformer3DModel", **WAN_TINY.config.to_diffusers()}
    (folder / "transformer" / "config.json").write_text(json.dumps(told))
    return folder


def loaded(weights: Path) -> SeqTexModel:
    return load_model(NAME, sources=ModelSources(weights=str(weights)))


def test_the_preset_is_what_the_released_weights_expect() -> None:
    preset = CATALOG.get("seqtex-released").model_config()
    assert preset.name == "seqtex-released"
    assert preset.backbone == {"name": "wan2.1-t2v-1.3b"}
    assert preset.decoupled.geometry_order == "pre_rope"
    assert preset.decoupled.uv_key_source == "raw_post_attn"
    assert preset.decoupled.uv_share == {"cross_attn", "patch_embed", "time_text", "proj_out"}
    assert (preset.decoupled.lora_rank, preset.decoupled.lora_alpha) == (128, 64.0)
    assert preset.codec["ranges"] == {"rgb": [0.0, 1.0], "geometry": [0.0, 1.0]}
    assert preset.codec["sample_posterior"]
    assert (preset.view_size, preset.uv_size, preset.task) == (512, 1024, "img2tex")
    sampling = preset.sampling
    assert (sampling.sampler, sampling.steps, sampling.shift) == ("unipc", 30, 3.0)
    assert sampling.whole_timesteps
    assert not sampling.shared_condition_noise
    assert released_model_config(shift=PAPER_SHIFT).sampling == replace(sampling, shift=5.0)
    assert ModelConfig.from_json(json.loads(json.dumps(preset.to_json())), source="") == preset


def test_a_released_checkpoint_becomes_a_model(weights: Path) -> None:
    model = loaded(weights)
    assert model.is_trained
    state = released_state(SIZES)
    named = unique_tensors(model.transformer)
    assert len(named) == len(state)
    uv = "attnuv.to_out.0.weight"
    assert torch.equal(named["blocks.1.uv.attn1.to_out.0.weight"], state[f"blocks.1.{uv}"])
    scales = {layer.scale for _, layer in lora_layers(model.transformer)}
    assert scales == {SIZES.alpha / SIZES.rank}


def test_partial_weights_and_a_missing_vae_are_refused(weights: Path, tmp_path: Path) -> None:
    state = released_state(SIZES)
    del state["blocks.0.geometry_caster.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.\*\.geometry_caster\.bias"):
        load_model(
            NAME,
            sources=ModelSources(
                weights=str(tmp_path / "part.safetensors"), vae=str(weights / "vae")
            ),
        )
    with pytest.raises(WeightsError, match=r"--vae-weights.*Wan-AI/Wan2\.1"):
        loaded(weights / "transformer")
    with pytest.raises(WeightsError, match="hf download VAST-AI/SeqTex-Transformer"):
        load_model(NAME, sources=ModelSources())


@torch.no_grad()
def test_a_run_shows_and_tells_what_the_release_does(
    weights: Path, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(weights)
    seen: list[Tensor] = []  # by the VAE
    told: list[dict[str, Tensor]] = []
    shown: list[Tensor] = []
    inward, forward = ValueRanges.inward, model.transformer.forward

    def watched_inward(self: ValueRanges, images: Tensor, content: Content) -> Tensor:
        seen.append(inward(self, images, content))
        return seen[-1]

    def watched_forward(latents: Any, sigmas: Any, cache: Any) -> dict[str, Tensor]:
        told.append(sigmas)
        shown.append(latents["views"][:, :, 0].clone())
        return forward(latents, sigmas, cache)

    monkeypatch.setattr(ValueRanges, "inward", watched_inward)
    monkeypatch.setattr(model.transformer, "forward", watched_forward)
    front = {"front": assets / "views" / "0_front.png"}
    result = SeqTexPipeline(model)(assets / "figure.glb", front, options=RunOptions(steps=3))

    # interpolated positions may leave [-1, 1] by the rounding of their weights
    assert all(bool((x >= -1e-6).all() and (x <= 1 + 1e-6).all()) for x in seen)
    position, normal, reference, *texture = seen
    assert len(texture) == 2
    for maps in (position, normal, *texture):
        assert (maps == 0.5).float().mean() > 0.1  # background, 0 before it is mapped
    assert (reference[:, :, 0] == 0.0).float().mean() > 0.1  # black
    # shift 3 of linspace(1, 1/1000, 4), in thousandths and rounded down; the condition stays exact
    assert [round(1000 * s["texture"].item(), 3) for s in told] == [999.0, 857.0, 600.0]
    for sigmas in told:
        assert sigmas["views"][0, 0].item() == pytest.approx(CONDITION_LEVEL, abs=1e-7)
    assert not torch.equal(shown[0], shown[1])  # fresh noise on the reference in every step
    assert result.textures[0].min() >= 0.0
    assert result.textures[0].max() <= 1.0


@torch.no_grad()
def test_latents_are_drawn_with_noise_of_their_own(
    weights: Path, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding and sampling both start from the seed; their noise must not be the same."""
    model = loaded(weights)
    encoding: list[Tensor] = []
    start: list[Tensor] = []
    forward = model.transformer.forward

    def watched_draw(shape: Any, **options: Any) -> Tensor:
        encoding.append(draw_noise(shape, **options))
        return encoding[-1]

    def watched_forward(latents: Any, sigmas: Any, cache: Any) -> dict[str, Tensor]:
        start.append(latents["views"])
        return forward(latents, sigmas, cache)

    monkeypatch.setattr("seqtex_backbones.codecs.video_vae.draw_noise", watched_draw)
    monkeypatch.setattr(model.transformer, "forward", watched_forward)
    front = {"front": assets / "views" / "0_front.png"}
    SeqTexPipeline(model)(assets / "figure.glb", front, options=RunOptions(steps=1))
    views = [noise for noise in encoding if noise.shape == start[0].shape]
    assert len(views) == 3  # positions, normals, references
    for noise in views:
        assert not torch.equal(noise[:, :, 1:], start[0][:, :, 1:])


def test_latents_are_drawn(weights: Path) -> None:
    codec = loaded(weights).codec
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    drawn = [
        codec.encode(picture, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert codec.ranges == RELEASED_RANGES


@pytest.mark.parametrize(("words", "levels"), [([], 3.0), (["--shift", "5"], PAPER_SHIFT)])
def test_the_command_takes_it_by_name(
    seqtex: Callable[..., Any],
    weights: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    levels: float,
) -> None:
    asked: list[float] = []

    def watched(steps: int, shift: float) -> Tensor:
        asked.append(shift)
        return inference_sigmas(steps, shift)

    monkeypatch.setattr("seqtex.generate.inference_sigmas", watched)
    outcome = seqtex(
        "texture", work / "figure.glb", "--image", work / "views" / "0_front.png",
        "--model", NAME, "--weights", weights, "--steps", "1", "-o", work / "out.glb", *words,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert f"{NAME} (trained)" in outcome.err
    assert asked == [levels]
    outcome = seqtex(
        "texture", work / "figure.glb", "--image", work / "views" / "0_front.png",
        "--model", NAME, "--weights", weights, "--shift", "0",
    )  # fmt: skip
    assert outcome.code == 2
    assert "--shift" in outcome.err
