"""The network that weighs ways to continue, how it is fitted, and models that carry one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seqtex.data import worker_processes
from seqtex.data.production import Production, produce
from seqtex.data.record import RecordSizes
from seqtex.data.synth import SynthSettings
from seqtex.data.worker_processes import JobEnd
from seqtex.fusion import CANDIDATES, FUSION_NAME, MODEL, Fusion, fused, load_fusion, with_model
from seqtex.models.config import ModelConfig
from seqtex.models.folder import model_folder
from seqtex.models.load import build_transformer, load_model
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.projection_frame import project_frame
from seqtex.training import fusion_examples as fusion_examples_module
from seqtex.training.bank_source import BankSource
from seqtex.training.batch import SourceContext
from seqtex.training.batch_sampling import sample_batch
from seqtex.training.config import ModelSection
from seqtex.training.export import collect_weights, trained_config, write_model
from seqtex.training.fusion_examples import (
    ExampleSettings,
    FusionExample,
    fusion_examples,
)
from seqtex.training.fusion_export import write_with_fusion
from seqtex.training.fusion_fit import FusionFit, fit_fusion, mean_gain
from seqtex_core.errors import UsageError, WeightsError
from seqtex_geometry.continuation import (
    EVIDENCE,
    WAYS,
    Continuations,
    averaged,
    continue_colors,
)

WIDTH = EVIDENCE + len(CANDIDATES)


def random_fusion(seed: int = 0) -> Fusion:
    torch.manual_seed(seed)
    return Fusion(8).eval()


def small_config() -> ModelConfig:
    base = ModelConfig.read(model_folder("seqtex-tiny"))
    backbone = dict(base.backbone)
    backbone["config"] = {
        **backbone["config"],
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "ffn_dim": 16,
    }
    return replace(
        base, backbone=backbone, view_size=16, uv_size=32, fusion=None, texture_size=None
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder with random weights and no fusion."""
    folder = tmp_path_factory.mktemp("models") / "small"
    config = small_config()
    weights = collect_weights(build_transformer(config), {}, "fp32")
    write_model(folder, config, weights, {"step": 7})
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fusion") / "bank"
    settings = SynthSettings(
        seed=3,
        families=("lathe", "mug"),
        sizes=RecordSizes(view_size=16, uv_size=32, supersample=2),
    )
    produce(Production(folder=folder, count=4, settings=settings))
    return folder


def example(seed: int, texels: int = 32) -> FusionExample:
    """The second way is right where the first feature is positive, the model elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(texels, WIDTH, generator=generator)
    colors = torch.rand(texels, len(CANDIDATES), 3, generator=generator)
    truth = torch.where(features[:, :1] > 0, colors[:, 1], colors[:, -1])
    return FusionExample(features=features, colors=colors, truth=truth)


def test_weights_are_shares_and_colours_lie_between_the_candidates():
    fusion, one = random_fusion(), example(0)
    weights = fusion.weights(one.features)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(32))
    assert bool((weights > 0).all())
    made = fusion(one.features, one.colors)
    by_hand = torch.stack(
        [sum(weights[t, k] * one.colors[t, k] for k in range(len(CANDIDATES))) for t in range(32)]
    )
    torch.testing.assert_close(made, by_hand)


def test_features_are_the_evidence_and_how_far_candidates_are_apart():
    colors = torch.rand(5, len(WAYS), 3)
    ways = Continuations(colors=colors, evidence=torch.rand(5, EVIDENCE))
    features, joined = with_model(ways, torch.full((5, 3), 0.25))
    assert features.shape == (5, WIDTH)
    assert torch.equal(features[:, :EVIDENCE], ways.evidence)
    assert torch.equal(joined[:, CANDIDATES.index(MODEL)], torch.full((5, 3), 0.25))
    same = Continuations(colors=torch.full((5, len(WAYS), 3), 0.25), evidence=ways.evidence)
    agreeing, _ = with_model(same, torch.full((5, 3), 0.25))
    assert float(agreeing[:, EVIDENCE:].abs().max()) < 1e-6


def charted(size: int = 12) -> dict[str, torch.Tensor]:
    """A square in space as one chart with an empty border; the left half was seen."""
    place = torch.linspace(-1, 1, size)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[1:-1, 1:-1] = True
    return {
        "seen": columns < 0,
        "position": torch.stack([columns, torch.zeros_like(rows), rows]),
        "normal": torch.tensor([0.0, -1.0, 0.0])[:, None, None].expand(3, size, size),
        "mask": mask,
    }


def test_only_hidden_texels_change():
    maps, texture, frame = charted(), torch.rand(3, 12, 12), torch.rand(3, 12, 12)
    made = fused(random_fusion(), texture, frame, **maps)
    hidden = maps["mask"] & ~maps["seen"]
    assert torch.equal(made[:, ~hidden], texture[:, ~hidden])
    assert not torch.equal(made[:, hidden], texture[:, hidden])
    assert bool(made.isfinite().all())


def test_a_change_of_ways_has_no_edge():
    """Weights that jump from texel to texel: means over 16 of them differ far less."""

    class Alternating(Fusion):
        def forward(self, features, colors):
            return torch.arange(len(colors))[:, None].expand(-1, 3) % 2.0

    maps, frame = charted(), torch.full((3, 12, 12), 0.5)
    made = fused(Alternating(8), frame, frame, **maps)
    hidden = made[:, maps["mask"] & ~maps["seen"]]
    assert float((hidden - 0.5).abs().max()) <= 0.25  # unaveraged: 0.5 everywhere


@pytest.mark.parametrize("options", [{"hiden": 8}, {"hidden": "8"}, {"hidden": -1}])
def test_options_of_no_fusion_are_named(options, tmp_path: Path):
    with pytest.raises(WeightsError, match="a width"):
        load_fusion(tmp_path, options)


def test_users_and_measurements_get_the_fused_texture(
    model: Path, bank: Path, work: Path, tmp_path: Path
):
    """A fusion that takes the mean colour only: what is hidden is that, in both paths."""
    fusion = Fusion(8)
    last = fusion.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(-50.0)
        last.bias[CANDIDATES.index("mean")] = 50.0
    write_with_fusion(tmp_path / "with", model, fusion.requires_grad_(False), {})
    loaded = load_model(tmp_path / "with")
    job = prepare_job(work / "figure.glb", {"front": work / "views" / "0_front.png"})
    result = SeqTexPipeline(loaded)(job)
    frame = project_frame(job, job.uv_maps(32))
    hidden = frame.maps.hit[0] & ~frame.seen
    maps = job.uv_maps(32)
    charts = maps.hit[0]
    ways = continue_colors(
        maps.position[0][charts],
        maps.normal[0][charts],
        frame.image[:, charts].T,
        frame.seen[charts],
        part=frame.part[charts],
    )
    base, mean = frame.image[:, hidden].T, ways.colors[:, WAYS.index("mean")]
    places = maps.position[0][hidden], maps.normal[0][hidden]
    expected = base + averaged(mean - base, *places, part=frame.part[hidden])
    torch.testing.assert_close(result.textures[0][:, hidden].T, expected, rtol=0, atol=1e-3)
    assert "Weigh unseen" in result.manifest.stage_seconds

    context = SourceContext(seed=0, view_size=16, uv_size=32, supersample=2)
    source = BankSource({"path": str(bank)}, context)
    batch = source.batch([0], "img2tex_projected")
    made = {
        fuse: sample_batch(loaded, batch, [0], steps=1, seed=0, fuse=fuse)["texture"]
        for fuse in (True, False)
    }
    seen = batch.visible[0, 0] & (batch.groups["texture"].mask[0, 0, 0] > 0)
    off = batch.groups["texture"].mask[0, 0, 0] == 0
    assert torch.equal(made[True][..., seen], made[False][..., seen])
    hidden = ~seen & ~off
    assert not torch.allclose(made[True][..., hidden], made[False][..., hidden], atol=1e-2)


def test_parts_of_a_job_keep_their_colours():
    """Two halves of a square, one above the other; of each the left was seen."""
    maps = charted()
    part = (maps["position"][2] > 0).long()
    frame = torch.where(part > 0, 0.9, 0.1).expand(3, 12, 12)
    parted = fused(random_fusion(), frame, frame, part=part, **maps)
    torch.testing.assert_close(parted, frame, rtol=0, atol=1e-5)
    mixed = fused(random_fusion(), frame, frame, **maps)
    assert float((mixed - frame).abs().max()) > 0.02


@pytest.mark.parametrize("seen", [False, True])
def test_nothing_to_weigh_leaves_the_texture(seen):
    maps = charted() | {"seen": torch.full((12, 12), seen)}
    texture = torch.rand(3, 12, 12)
    assert torch.equal(fused(random_fusion(), texture, texture, **maps), texture)


def test_a_plain_surface_stays_plain():
    """All candidates agree, so no weights can do harm; sums of shares round to 1e-6."""
    maps, plain = charted(), torch.full((3, 12, 12), 0.7)
    made = fused(random_fusion(), plain, plain, **maps)
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-5)


def test_fitting_finds_which_candidate_is_right():
    """A fixed blend of the two has half the error of either, 3 dB less: more is a choice."""
    settings = FusionFit(epochs=25, objects=8, texels=32, learning_rate=2e-2, hidden=16)
    fusion = fit_fusion([example(seed) for seed in range(64)], settings)
    fresh = [example(seed) for seed in range(100, 110)]
    assert mean_gain(fusion, fresh, over=CANDIDATES[1]) > 4
    assert mean_gain(fusion, fresh, over=MODEL) > 4
    again = fit_fusion([example(seed) for seed in range(64)], settings)
    assert all(
        torch.equal(a, b) for a, b in zip(fusion.parameters(), again.parameters(), strict=True)
    )


def test_too_few_examples_are_refused():
    with pytest.raises(UsageError, match="at least 16 that hide something"):
        fit_fusion([example(0)], FusionFit())


def test_a_model_with_a_fusion_is_copied_and_loaded(model: Path, tmp_path: Path):
    fusion = random_fusion()
    write_with_fusion(tmp_path / "with", model, fusion, {"objects": 5})
    loaded = load_model(tmp_path / "with")
    assert loaded.fusion is not None
    for old, new in zip(fusion.parameters(), loaded.fusion.parameters(), strict=True):
        assert torch.equal(old, new)
    record = json.loads((tmp_path / "with" / "training.json").read_text())
    assert (record["step"], record["fusion"]) == (7, {"objects": 5})
    plain = load_model(model)
    assert plain.fusion is None
    assert plain.record.sha256 != loaded.record.sha256
    pairs = zip(plain.transformer.parameters(), loaded.transformer.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_missing_and_other_fusions_are_named(model: Path, tmp_path: Path):
    write_with_fusion(tmp_path / "with", model, random_fusion(), {})
    with pytest.raises(WeightsError, match=FUSION_NAME):
        load_fusion(tmp_path / "with", {"hidden": 9})
    (tmp_path / "with" / FUSION_NAME).unlink()
    with pytest.raises(WeightsError, match=FUSION_NAME):
        load_model(tmp_path / "with")


def test_a_model_without_a_projection_frame_is_refused(bank: Path, tmp_path: Path):
    base = small_config()
    plain = replace(base.decoupled, copy=None)
    config = replace(base, task="img2tex", texture_base="none", decoupled=plain)
    weights = collect_weights(build_transformer(config), {}, "fp32")
    write_model(tmp_path / "other", config, weights, {"step": 7})
    settings = ExampleSettings(model=str(tmp_path / "other"), data=bank, source="bank")
    with pytest.raises(UsageError, match="one with a projection frame"):
        list(fusion_examples(settings, 16))


def ends_backwards(jobs, work, *, workers, timeout_s):
    """Stands for processes of which the last one is the fastest."""
    for job in reversed(list(jobs)):
        yield JobEnd(job=job, result=work(job), failure="", seconds=0.0)


def test_processes_give_the_examples_of_one_in_order_and_send_no_tensors(
    bank: Path, model: Path, monkeypatch
):
    settings = ExampleSettings(model=str(model), data=bank, source="bank", texels=8)
    monkeypatch.setattr(fusion_examples_module, "_PER_JOB", 2)
    alone = list(fusion_examples(settings, 5))
    sent = []

    def watched(*args, **options):
        for end in ends_backwards(*args, **options):
            sent.extend(value for arrays in end.result.value for value in arrays)
            yield end

    monkeypatch.setattr(worker_processes, "in_processes", watched)
    shared = list(fusion_examples(settings, 5, workers=2))
    assert len(alone) == len(shared) > 2
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.colors, other.colors)
        assert torch.equal(one.truth, other.truth)
    assert all(isinstance(value, np.ndarray) for value in sent)


def test_what_is_wrong_in_a_process_is_said_as_in_one(bank: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(worker_processes, "in_processes", ends_backwards)
    settings = ExampleSettings(model=str(tmp_path / "none"), data=bank, source="bank")
    with pytest.raises(WeightsError, match="none"):
        list(fusion_examples(settings, 16, workers=2))


def test_training_on_drops_the_fusion():
    config = replace(small_config(), fusion={"hidden": 8})
    assert trained_config(config, ModelSection()).fusion is None


def test_the_command_adds_a_fusion(seqtex, bank: Path, model: Path, tmp_path: Path):
    out = tmp_path / "with"
    made = seqtex(
        "train-fusion", bank, "--model", model, "-o", out, "--count", "20", "--epochs", "2"
    )
    assert made.code == 0, made.err
    assert made.out.strip() == str(out)
    assert "over the smooth fill" in made.err
    facts = json.loads((out / "training.json").read_text())["fusion"]
    assert 16 <= facts["used"] <= facts["objects"] == 20
    assert set(facts["gain_over_in_training_db"]) == set(CANDIDATES)
    assert load_model(out).fusion is not None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere", "-o", "out"], "no such folder"),
        (["{bank}", "--model", "{model}", "-o", "{model}"], "another folder than the model's"),
        (["{bank}", "--model", "nobody", "-o", "out"], "nobody"),
    ],
)
def test_bad_requests_write_nothing(seqtex, bank, model, tmp_path, monkeypatch, options, named):
    monkeypatch.chdir(tmp_path)
    found = seqtex("train-fusion", *(text.format(bank=bank, model=model) for text in options))
    assert found.code in (2, 3, 4)
    assert named in found.err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_fusion_is_not_replaced(seqtex, bank: Path, model: Path, tmp_path: Path):
    trained = tmp_path / "trained"
    shutil.copytree(model, trained)
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    found = seqtex("train-fusion", bank, "--model", model, "-o", trained, "--count", "16")
    assert found.code == 2
    assert "fusion.safetensors" in found.err
    assert "--overwrite" in found.err
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before
