"""Named full-size models: weights from files or a seed, or not at all; text from three places."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import load_file, save_file

from seqtex.manifest import read_manifest
from seqtex.models.catalog import CATALOG
from seqtex.models.config import WEIGHTS_NAME, ModelConfig
from seqtex.models.fill import empty_transformer, fill_with_seed, tensor_bytes
from seqtex.models.folder import CONFIG_NAME
from seqtex.models.full_size import find_parts, load_transformer
from seqtex.models.live_bytes import peak_bytes
from seqtex.models.load import SeqTexModel, load_model
from seqtex.models.memory_needs import codec_on_meta
from seqtex.models.run_sizes import token_pixels
from seqtex.models.sources import ModelSources
from seqtex.models.text import VisitingTextEncoder
from seqtex_backbones.codecs.protocol import codec_from_config
from seqtex_core.checkpoint import save_model
from seqtex_core.errors import UsageError, WeightsError

sys.path.insert(0, str(Path(__file__).parent))
import full_size_models as tiny

Seqtex = Callable[..., Any]
pytest.importorskip("transformers", reason="text prompts need transformers")


@pytest.fixture(autouse=True)
def _in_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tests_only", tiny)
    monkeypatch.setattr("seqtex.intermediates._PICTURE_SIZE", 32)
    CATALOG.register(tiny.NAME, tiny.ENTRY)
    yield
    del CATALOG._entries[tiny.NAME]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with all its parts."""
    folder = tiny.write_pipeline(tmp_path_factory.mktemp("weights"))
    return tiny.write_text_encoder(folder)


@pytest.fixture
def command(work: Path) -> list[str | Path]:
    picture = work / "views" / "0_front.png"
    return [
        "texture",
        work / "figure.glb",
        "--image",
        picture,
        "--model",
        tiny.NAME,
        "--steps",
        "1",
    ]


def loaded(**sources: Any) -> SeqTexModel:
    return load_model(tiny.NAME, sources=ModelSources(**sources))


def painted(work: Path) -> np.ndarray:
    return np.asarray(Image.open(work / "steps" / "textures" / "texture0.png"))


# --- the catalog -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(CATALOG.names()) - {tiny.NAME}))
def test_configs_of_the_catalog_fit_together(name: str) -> None:
    """The codec makes the latents that the backbone reads; nothing is in memory."""
    entry = CATALOG.get(name)
    config = entry.model_config()
    assert config.name == name
    assert (config.sampling.sampler, config.sampling.steps) == ("unipc", 30)
    codec = codec_on_meta(config.codec, "float32")
    latents = codec.encode(torch.empty(1, 3, 64, 64, device="meta"), generator=torch.Generator())
    spec = empty_transformer(config).spec
    assert entry.uv_size == config.uv_size
    assert entry.token_pixels == token_pixels(codec, spec)
    edge = 64 // codec.spatial_factor
    assert tuple(latents.shape[1:]) == (spec.latent_channels, 1, edge, edge)


# --- no weights, wrong weights ---------------------------------------------------------------


def test_without_weights_the_error_says_what_to_put_where(
    seqtex: Seqtex, command: list[str | Path]
) -> None:
    outcome = seqtex(*command)
    assert outcome.code == 4
    for words in ("transformer/", "vae/", "text_encoder/", "hf download owner/full-tiny",
                  "--vae-weights", "--random-weights 0"):  # fmt: skip
        assert words in outcome.err


@pytest.mark.parametrize(
    ("sources", "kind", "words"),
    [
        ({"weights": "x/y", "random_seed": 1}, UsageError, "one of the two"),
        ({"random_seed": 1, "text": "a", "text_embeddings": "b"}, UsageError, "one of the two"),
        ({"weights": "/nowhere/at/all"}, WeightsError, "nothing there"),
        ({"random_seed": 1, "vae": "/nowhere/at/all"}, WeightsError, "--vae-weights"),
        ({"vae": "a/b"}, WeightsError, "no --weights"),
    ],
)
def test_sources_that_cannot_work(
    sources: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        loaded(**sources)


def test_weights_for_a_model_that_has_its_own(seqtex: Seqtex, command: list[str | Path]) -> None:
    words = [*command, "--random-weights", "0"]
    words[words.index(tiny.NAME)] = "seqtex-tiny"
    outcome = seqtex(*words)
    assert outcome.code == 2
    assert "weights of its own" in outcome.err


def test_a_trained_folder_is_no_source_of_weights(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text("{}")
    with pytest.raises(UsageError, match="Use --model"):
        loaded(weights=str(tmp_path))


def test_an_empty_folder_misses_the_transformer_first(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="safetensors files, got an empty folder"):
        loaded(weights=str(tmp_path))


def test_weights_of_another_architecture(weights: Path, tmp_path: Path) -> None:
    """Weights that do not suit are the weights' fault, not the command's: exit code 4, not 2."""
    parts = tmp_path / "transformer"
    parts.mkdir()
    source = weights / "transformer"
    for file in source.iterdir():
        (parts / file.name).symlink_to(file)
    (parts / "config.json").unlink()
    (parts / "config.json").write_text('{"_class_name": "CogVideoXTransformer3DModel"}')
    with pytest.raises(WeightsError, match="CogVideoXTransformer3DModel"):
        loaded(weights=str(tmp_path), vae=str(weights))


def test_a_transformer_alone_asks_for_the_vae(weights: Path) -> None:
    with pytest.raises(WeightsError, match="--vae-weights DIR"):
        loaded(weights=str(weights / "transformer"))


def test_a_vae_with_other_latents(weights: Path, tmp_path: Path) -> None:
    sizes = tiny.VAE | {"z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    AutoencoderKLWan(**sizes).save_pretrained(tmp_path / "vae")
    with pytest.raises(WeightsError, match="16 latent channels, got 4"):
        loaded(weights=str(weights), vae=str(tmp_path))


# --- random weights --------------------------------------------------------------------------


def test_a_dry_run_says_that_it_is_one(
    seqtex: Seqtex, work: Path, command: list[str | Path]
) -> None:
    outcome = seqtex(*command, "--random-weights", "7", "--save-intermediates", work / "steps")
    assert outcome.code == 0, outcome.err
    assert "untrained: seeded random weights, seed 7" in outcome.err.split("Maps:")[0]
    assert "text: none, all-zero rows" in outcome.err
    record = read_manifest(work / "figure_textured.glb.seqtex.json")
    assert record["model"]["notes"] == ["untrained", "seeded random weights, seed 7"]
    assert record["settings"]["dtype"] == "torch.bfloat16"
    assert painted(work).shape == (64, 64, 3)
    assert painted(work).std() > 0


def test_seeds_make_different_models_and_the_same_seed_the_same(tmp_path: Path) -> None:
    first, again, other = (loaded(random_seed=seed).transformer for seed in (3, 3, 4))
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(*(state["blocks.0.mv.attn1.to_q.weight"] for state in states[::2]))


def test_random_weights_are_those_of_an_untrained_model() -> None:
    """As after construction: the texture branch is a copy, geometry and adapters add nothing."""
    transformer = loaded(random_seed=0).transformer
    state = transformer.state_dict()
    for name, tensor in state.items():
        assert not tensor.is_meta
        assert bool(tensor.isfinite().all())
        if name.startswith("blocks.") and ".uv." in name:
            assert torch.equal(tensor, state[name.replace(".uv.", ".mv.", 1)])
        if "geometry_caster" in name or name.endswith("lora_B.weight"):
            assert not tensor.any()
    weight = state["blocks.0.mv.ffn.net.0.proj.weight"].float()  # uniform in +-1 / sqrt(48)
    assert 0.9 < float(weight.abs().max()) * 48**0.5 <= 1.01


def test_precision_islands_of_the_backbone_are_kept() -> None:
    transformer = loaded(random_seed=0).transformer
    kinds = {name: p.dtype for name, p in transformer.named_parameters()}
    assert kinds["blocks.0.mv.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["blocks.0.mv.scale_shift_table"] == torch.float32


# --- memory while loading --------------------------------------------------------------------


def test_building_holds_one_copy(weights: Path) -> None:
    """Beside the weights, no more than the largest tensors in flight, once in fp32."""
    largest = max(p.numel() for p in empty_transformer(tiny.CONFIG).parameters())
    kind = torch.bfloat16
    kept: list[Any] = []

    def seeded() -> None:
        kept.append(empty_transformer(tiny.CONFIG, dtype=kind))
        fill_with_seed(kept[-1], 0)

    def from_files() -> None:
        parts = find_parts(tiny.ENTRY, ModelSources(weights=str(weights)), with_text=False)
        made = load_transformer(tiny.ENTRY, tiny.CONFIG, parts, seed=None, dtype=kind)
        kept.append(made)

    for build in (seeded, from_files):
        peak = peak_bytes(build)
        bound = tensor_bytes(kept[-1]) + 4 * largest * 4
        # The empty model's own tensors are counted too; they hold no memory.
        assert peak <= bound + tensor_bytes(empty_transformer(tiny.CONFIG, dtype=kind))


# --- weights from files ----------------------------------------------------------------------


def test_a_pipeline_folder(weights: Path) -> None:
    model = loaded(weights=str(weights))
    stored = load_file(weights / "transformer" / "diffusion_pytorch_model.safetensors")
    made = model.transformer.mv_state_dict()
    assert set(made) == set(stored)
    for name, tensor in stored.items():
        assert torch.equal(made[name], tensor.to(made[name].dtype)), name
    vae = load_file(weights / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(model.codec.vae.state_dict()[name], vae[name]) for name in vae)
    assert model.record.notes[0] == "untrained"
    assert "texture branch has not been trained" in model.state


def test_parts_apart(weights: Path, tmp_path: Path) -> None:
    file = weights / "transformer" / "diffusion_pytorch_model.safetensors"
    apart = loaded(weights=str(file), vae=str(weights / "vae"))
    assert apart.record == loaded(weights=str(weights)).record
    single = tmp_path / "vae.safetensors"
    save_file(load_file(weights / "vae" / "diffusion_pytorch_model.safetensors"), single)
    codec = loaded(weights=str(file), vae=str(single)).codec
    assert torch.equal(codec.vae.state_dict()["post_quant_conv.bias"],
                       apart.codec.vae.state_dict()["post_quant_conv.bias"])  # fmt: skip


def test_a_hub_id_is_downloaded_only_when_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(hub_id: str, *, folders: Any, **_: Any) -> Path:
        asked.append((hub_id, tuple(folders)))
        return weights

    monkeypatch.setattr("seqtex.models.full_size.download", download)
    loaded(weights=str(weights))
    assert asked == []
    loaded(weights="owner/full-tiny")
    assert asked == [("owner/full-tiny", ("", "transformer/", "vae/"))]


def write_trained(folder: Path, config: ModelConfig) -> None:
    """A model folder as training writes it, with seeded weights."""
    transformer = empty_transformer(config)
    fill_with_seed(transformer, 2)
    (folder / CONFIG_NAME).write_text(json.dumps(config.to_json()))
    save_model(transformer, folder / WEIGHTS_NAME)
    codec = codec_from_config(config.codec)
    assert isinstance(codec, torch.nn.Module)
    save_model(codec, folder / "codec.safetensors")


def test_a_trained_model_folder_at_half_precision(tmp_path: Path) -> None:
    write_trained(tmp_path, replace(tiny.CONFIG, name="mine"))
    model = load_model(tmp_path)
    assert (model.dtype, model.is_trained) == (torch.bfloat16, True)
    name = "blocks.0.mv.attn1.to_q.weight"
    expected = load_file(tmp_path / WEIGHTS_NAME)[name].bfloat16()
    assert torch.equal(model.transformer.state_dict()[name], expected)
    named = loaded(random_seed=2).transformer.state_dict()  # its sensitive parts stay fp32
    assert {n: t.dtype for n, t in model.transformer.state_dict().items()} == {
        n: t.dtype for n, t in named.items()
    }
    assert {t.dtype for t in named.values()} == {torch.float32, torch.bfloat16}


def test_a_trained_folder_with_text_holds_its_encoder_only_while_it_works(
    weights: Path, tmp_path: Path
) -> None:
    """Where memory is planned; rows are those of an encoder that stays, rounded to bfloat16."""
    write_trained(tmp_path, replace(tiny.CONFIG, name="mine", text_encoder="text"))
    (tmp_path / "text").symlink_to(weights)
    staying, visiting = load_model(tmp_path), load_model(tmp_path, memory=8)
    assert isinstance(visiting.text_encoder, VisitingTextEncoder)
    assert not isinstance(staying.text_encoder, VisitingTextEncoder)
    for prompt in (None, "a red chair"):
        rows = [model.encode_prompts([prompt])[0] for model in (staying, visiting)]
        assert rows[0] is not None
        assert rows[1] is not None
        torch.testing.assert_close(rows[0], rows[1].float(), atol=0.05, rtol=0.05)
    assert staying.text_state(None) == visiting.text_state(None) == "''"


# --- text ------------------------------------------------------------------------------------


def test_a_prompt_is_read_and_the_encoder_is_dropped(
    seqtex: Seqtex, work: Path, command: list[str | Path], weights: Path
) -> None:
    """Text from the encoder and from the file that `embed` writes give the same texture."""
    command += ["--weights", weights, "--save-intermediates", work / "steps"]
    assert seqtex(*command, "--prompt", "a red chair").code == 0
    by_encoder = painted(work)
    file = work / "red.safetensors"
    words = ["--model", tiny.NAME, "--text-weights", weights, "-o", file]
    assert seqtex("embed", "a red chair", "", *words).code == 0
    outcome = seqtex(*command, "--text-embeddings", file)  # the file's first prompt
    assert outcome.code == 0, outcome.err
    assert "text: 'a red chair'" in outcome.err
    assert np.array_equal(painted(work), by_encoder)
    refused = seqtex(*command, "--text-embeddings", file, "--prompt", "a wooden chair")
    assert refused.code == 2
    assert "'a red chair'" in refused.err


def test_embed_replaces_its_own_files_only(seqtex: Seqtex, work: Path, weights: Path) -> None:
    """Weights end in .safetensors as well."""
    file = work / "red.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    before = file.read_bytes()
    words = ["embed", "a red chair", "--model", tiny.NAME, "--text-weights", weights, "-o", file]
    refused = seqtex(*words)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert file.read_bytes() == before
    assert seqtex(*words, "--overwrite").code == 0
    assert seqtex(*words).code == 0  # a file of prompts by now


def test_rows_are_kept_and_encoders_are_not(weights: Path, monkeypatch: Any) -> None:
    encoder = VisitingTextEncoder(weights, max_length=8)
    together = encoder.encode(["a red chair", ""])
    assert together.shape == (2, 8, 32)
    monkeypatch.setattr("seqtex.models.text.load_text_encoder", None)  # no second loading
    assert torch.equal(encoder.encode([""]), together[1:])


def test_text_reaches_the_model(weights: Path) -> None:
    model = loaded(weights=str(weights))
    rows, empty, none = model.encode_prompts(["a red chair", "", None])
    assert none is None
    assert rows is not None
    assert empty is not None
    assert not torch.equal(rows, empty)
    assert model.text_state(None) == "none, all-zero rows"
    assert model.text_state("") == "''"


def test_a_prompt_without_an_encoder(seqtex: Seqtex, command: list[str | Path]) -> None:
    outcome = seqtex(*command, "--random-weights", "0", "--prompt", "a chair")
    assert outcome.code == 2
    assert "--text-embeddings" in outcome.err


def test_embeddings_of_another_encoder(tmp_path: Path) -> None:
    save_file({"rows": torch.zeros(4, 31)}, tmp_path / "rows.safetensors")
    with pytest.raises(WeightsError, match=r"\[S, 32\]"):
        loaded(random_seed=0, text_embeddings=str(tmp_path / "rows.safetensors"))
