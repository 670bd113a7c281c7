"""What a run starts from: full-size models by name, other backbones, and what does not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqtex.models.catalog import CATALOG
from seqtex.models.config import ModelConfig
from seqtex.models.fill import empty_transformer
from seqtex.models.folder import model_folder
from seqtex.models.load import load_model
from seqtex.training.config import read_config
from seqtex.training.starting_point import model_config, starting_point
from seqtex_backbones.registry import BACKBONES
from seqtex_core import checkpoint
from seqtex_core.errors import UsageError, WeightsError

sys.path.insert(0, str(Path(__file__).parent))
import full_size_models as tiny

Seqtex = Callable[..., Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_backbone"
RUN = """
[data]
source = "sphere"
[[stages]]
steps = 2
tasks = { img2tex = 1 }
learning_rate = 1e-3
[run]
batch_size = 2
num_threads = 1
[output]
preview_count = 0
tensorboard = "off"
"""
TINY = '[model]\n[model.overrides]\nview_size = 16\nuv_size = 32\ntask = "img2tex"\n'


@pytest.fixture
def _in_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tests_only", tiny)
    CATALOG.register(tiny.NAME, tiny.ENTRY)
    yield
    del CATALOG._entries[tiny.NAME]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder as diffusers writes it, beside whose name configs lie."""
    return tiny.write_pipeline(tmp_path_factory.mktemp("runs") / "pipeline")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return written


@pytest.mark.usefixtures("_in_catalog")
def test_a_full_size_model_is_trained_and_used(
    weights: Path, work: Path, seqtex: Seqtex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of diffusers and a name in, a folder for `seqtex texture --model` out."""
    monkeypatch.setattr("seqtex.intermediates._PICTURE_SIZE", 32)
    config = weights.parent / "full.toml"
    section = f'[model]\nbase = "{tiny.NAME}"\nbackbone_weights = "pipeline"\n'
    config.write_text(section + RUN.replace("[run]", '[run]\nprecision = "bf16"'))
    done = seqtex("train", config, "-o", work / "run", "--device", "cpu")
    assert done.code == 0, done.err
    model = ModelConfig.read(work / "run" / "model")
    assert model.name == "full-tiny-trained"
    assert model.codec["vae"]["base_dim"] == tiny.VAE["base_dim"]  # of the VAE's own config
    stored = load_file(work / "run" / "model" / "codec.safetensors")
    own = load_file(weights / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[f"vae.{name}"], tensor) for name, tensor in own.items())
    frozen = load_file(weights / "transformer" / "diffusion_pytorch_model.safetensors")
    transformer = empty_transformer(model)
    checkpoint.load_model(transformer, work / "run" / "model" / "model.safetensors")
    kept = transformer.backbone.original_keys(
        transformer.shells["mv"].state_dict(),
        [block.mv.state_dict() for block in transformer.muv_blocks()],
    )
    for name in ("blocks.0.attn1.to_q.weight", "patch_embedding.weight"):
        # frozen in bf16 (8 bits), stored in fp16 (11 bits): relative 2^-9 and what fp16 cuts off
        torch.testing.assert_close(kept[name], frozen[name], rtol=2**-8, atol=2**-24)
    assert load_model(work / "run" / "model").is_trained
    texture = seqtex(
        "texture", work / "figure.glb", "--image", work / "views" / "0_front.png",
        "--method", "model", "--model", work / "run" / "model", "--steps", "1",
        "--device", "cpu", "-o", work / "out.glb",
    )  # fmt: skip
    assert texture.code == 0, texture.err
    assert (work / "out.glb").is_file()


@pytest.mark.usefixtures("_in_catalog")
def test_parts_of_a_full_size_model(
    weights: Path, tmp_path: Path, write: Callable[[str], Path]
) -> None:
    """Each part from its own place; what is missing is said in the words of the config."""
    base = f'[model]\nbase = "{tiny.NAME}"\n'
    bare = tmp_path / "bare"
    bare.symlink_to(weights / "transformer")
    lacking = read_config(write(base + 'backbone_weights = "bare"\n' + RUN))
    with pytest.raises(WeightsError, match=r"vae_weights.*owner/full-tiny"):
        starting_point(lacking)
    with pytest.raises(WeightsError, match="vae_weights"):
        starting_point(read_config(write(base + RUN)))
    apart = f'backbone_weights = "bare"\nvae_weights = "{weights}"\n'
    point = starting_point(read_config(write(base + apart + RUN)))
    assert point.backbone_weights == bare
    assert point.codec.latent_channels == 16
    assert point.text_folder is None
    nowhere = f'text_weights = "{tmp_path}"\n'
    with pytest.raises(WeightsError, match="text_weights"):
        starting_point(read_config(write(base + apart + nowhere + RUN)))
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / part).mkdir()
    point = starting_point(read_config(write(base + apart + nowhere + RUN)))
    assert (point.text_folder, point.model.text_encoder) == (tmp_path, "text")
    silent = 'text_weights = "none"\n'
    assert starting_point(read_config(write(base + apart + silent + RUN))).text_folder is None
    with pytest.raises(UsageError, match="vae_weights"):  # seqtex-tiny has its own codec
        starting_point(read_config(write(f'[model]\nvae_weights = "{weights}"\n' + RUN)))


@pytest.mark.usefixtures("_in_catalog")
def test_a_full_size_model_with_another_codec_needs_no_vae(
    write: Callable[[str], Path],
) -> None:
    text = f"""[model]
base = "{tiny.NAME}"
[model.overrides.backbone]
name = "small"
architecture = "wan"
[model.overrides.backbone.config]
in_channels = 12
out_channels = 12
num_attention_heads = 2
num_layers = 1
ffn_dim = 16
[model.overrides.codec]
codec = "pixel"
patch_size = 2
ranges = {{ rgb = [-1.0, 1.0], geometry = [-1.0, 1.0] }}
latents_mean = [0.0]
latents_std = [0.5]
"""
    point = starting_point(read_config(write(text + RUN)))
    assert (point.codec.name, point.codec.latent_channels) == ("pixel", 12)


def test_a_backbone_of_another_distribution_is_trained(
    tmp_path: Path, seqtex: Seqtex, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own weights train, not those of the base's architecture under its name."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    BACKBONES.register("sketch-dit", "sketch_dit.entry:SKETCH_DIT")
    try:
        config = write(
            TINY + 'texture_base = "none"\nforeground = "none"\n'
            '[model.overrides.decoupled]\ncopy = "none"\n'
            '[model.overrides.backbone]\nname = "sketch-dit"\n'
            "[model.overrides.codec]\npatch_size = 2\n" + RUN
        )
        done = seqtex("train", config, "-o", tmp_path / "run", "--device", "cpu")
        assert done.code == 0, done.err
        written = json.loads((tmp_path / "run" / "model" / "seqtex.json").read_text())
        assert written["backbone"] == {"name": "sketch-dit"}
        assert written["foreground"] is None
        loaded = load_model(tmp_path / "run" / "model")
        assert type(loaded.transformer.backbone).__name__ == "SketchBackbone"
        large = '[model.overrides.decoupled]\ncopy = "none"\n'
        large += "[model.overrides.codec]\npatch_size = 8\n"
        wrong = write(TINY + '[model.overrides.backbone]\nname = "sketch-dit"\n' + large + RUN)
        with pytest.raises(UsageError, match=r"12 channels.*'pixel', which makes 192"):
            starting_point(read_config(wrong))
        mixed = '[model.overrides.backbone]\nname = "sketch-dit"\narchitecture = "wan"\n'
        mixed += "config = { num_attention_heads = 2, num_layers = 1, ffn_dim = 16 }\n"
        with pytest.raises(UsageError, match="registered backbone of another"):
            model_config(read_config(write(TINY + mixed + RUN)))
    finally:
        del BACKBONES._entries["sketch-dit"]


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ('name = "nonexistent"', "backbone name"),
        ('name = "mine"\nconfig = { num_layers = 2 }', "architecture beside it"),
        ('architecture = "mochi"\nconfig = { num_layer = 2 }', "num_layer"),
    ],
)
def test_another_backbone_replaces_the_settings_of_the_base(
    backbone: str, said: str, write: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=said):
        starting_point(read_config(write(f"[model.overrides.backbone]\n{backbone}\n{RUN}")))


def test_settings_of_the_same_backbone_are_merged_and_none_switches_off(
    write: Callable[[str], Path],
) -> None:
    text = '[model.overrides]\nforeground = "none"\ntexture_size = "none"\n'
    text += '[model.overrides.decoupled]\ncopy = "none"\n'
    text += "[model.overrides.backbone.config]\nnum_layers = 3\n" + RUN
    model = model_config(read_config(write(text)))
    assert (model.foreground, model.texture_size, model.decoupled.copy) == (None, None, None)
    assert model.backbone["architecture"] == "wan"
    own = ModelConfig.read(model_folder("seqtex-tiny")).backbone["config"]
    assert model.backbone["config"] == {**own, "num_layers": 3}


def test_sizes_that_make_no_tokens_are_refused(write: Callable[[str], Path]) -> None:
    text = "[model.overrides]\nview_size = 61\n" + RUN
    with pytest.raises(UsageError, match=r"view_size.*multiple of 2"):
        starting_point(read_config(write(text)))


def test_adapters_on_random_weights_are_refused(
    tmp_path: Path, seqtex: Seqtex, write: Callable[[str], Path]
) -> None:
    lora = '[model.overrides.decoupled]\nmv_train = "lora"\n'
    done = seqtex("train", write(TINY + lora + RUN), "-o", tmp_path / "run", "--device", "cpu")
    assert done.code == 2
    assert "backbone_weights" in done.err
    assert "mv_train = 'full'" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_in_catalog")
def test_a_name_brings_no_weights_to_go_on_from(
    weights: Path, tmp_path: Path, seqtex: Seqtex, write: Callable[[str], Path]
) -> None:
    text = f'[model]\nbase = "{tiny.NAME}"\nvae_weights = "{weights}"\nweights = "base"\n'
    done = seqtex("train", write(text + RUN), "-o", tmp_path / "run", "--device", "cpu")
    assert done.code == 2
    assert "[model] weights" in done.err
