"""The measurement: its numbers against hand computation, its baselines, what models are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.validator import problems
from seqtex.cli.evaluate import named_model, parsed_steps
from seqtex.data.bank import GeometryBank
from seqtex.data.preparation import Preparation, prepare_meshes
from seqtex.data.production import Production, produce
from seqtex.data.real_sample import SampleOptions
from seqtex.data.record import RecordSizes
from seqtex.data.splits import split_kinds
from seqtex.data.stream import ShardStream
from seqtex.data.synth import SynthSettings
from seqtex.evaluation import EvaluationCase, ModelMethod, bank_cases, baselines
from seqtex.evaluation.measures import MAX_PSNR
from seqtex.evaluation.methods import MEAN, NEAREST, SMOOTH, TRUTH, MadeTexture
from seqtex.evaluation.prepared import PreparedObjects
from seqtex.evaluation.rendering import TexelRenderer
from seqtex.evaluation.run import Evaluation, ObjectResult
from seqtex.evaluation.schema import RESULT_SCHEMA
from seqtex.evaluation.scores import MEASURES, scores
from seqtex.models.config import ModelConfig
from seqtex.models.folder import model_folder
from seqtex.models.load import build_transformer, load_model
from seqtex.training.export import collect_weights, write_model
from seqtex_core.errors import UsageError

SIZES = RecordSizes(view_size=16, uv_size=32)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> GeometryBank:
    folder = tmp_path_factory.mktemp("evaluation") / "bank"
    settings = SynthSettings(seed=3, families=("lathe", "mug"), sizes=SIZES)
    produce(Production(folder=folder, count=3, settings=settings))
    return GeometryBank(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, given the projected reference."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    base = ModelConfig.read(model_folder("seqtex-tiny"))
    backbone = dict(base.backbone)
    backbone["config"] = {
        **backbone["config"],
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "ffn_dim": 16,
    }
    config = replace(
        base,
        backbone=backbone,
        view_size=16,
        uv_size=32,
        task="img2tex_projected",
        name="small",
        fusion=None,
    )
    transformer = build_transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # heads start at zero; an untrained model would ignore its inputs
        for value in transformer.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    write_model(folder, config, collect_weights(transformer, {}, "fp32"), {"step": 7})
    return folder


def cases(bank: GeometryBank, **changes: int) -> list[EvaluationCase]:
    kinds = split_kinds("held-out")
    return list(bank_cases(bank, count=3, seed=changes.pop("seed", 0), kinds=kinds, **changes))


def repainted(case: EvaluationCase, *, hidden: float) -> EvaluationCase:
    """The case with all that is not given replaced: unseen texels and the other views."""
    uv = torch.where(case.unseen, hidden, case.images.uv)
    views = torch.full_like(case.images.views, hidden)
    views[case.given_view] = case.reference
    return replace(case, images=replace(case.images, uv=uv, views=views))


def test_baselines_on_real_cases(bank: GeometryBank) -> None:
    methods = {method.name: method for method in baselines()}
    assert list(methods) == [TRUTH, MEAN, NEAREST, SMOOTH]
    for case in cases(bank):
        assert case.hides_enough
        assert case.exclusion is None
        covered = case.maps.view_mask[0, 0]
        flat = methods[MEAN]([case])[0].texture
        by_hand = case.reference.flatten(1).sum(1) / covered.sum()
        assert torch.allclose(flat, by_hand[:, None, None].expand_as(flat), atol=1e-6)
        nearest, smooth = (methods[name]([case])[0].texture for name in (NEAREST, SMOOTH))
        for made in (nearest, smooth):
            assert torch.equal(made[:, case.seen], case.images.uv[:, case.seen])
        where = case.maps.uv_position.permute(1, 2, 0)
        distance = torch.cdist(where[case.unseen], where[case.seen])
        taken = case.images.uv[:, case.seen][:, distance.argmin(dim=1)]
        same = (nearest[:, case.unseen] - taken).abs().amax(0) < 1e-6
        assert same.float().mean() > 0.99  # ties may go to another texel


def test_no_method_knows_what_is_hidden(bank: GeometryBank, model: Path) -> None:
    methods = [*baselines()[1:], *ModelMethod.load(str(model), name="m", steps=[2])]
    first = cases(bank)
    light, dark = ([repainted(case, hidden=h) for case in first] for h in (0.9, 0.1))
    for method in methods:
        for a, b in zip(method(light), method(dark), strict=True):
            assert torch.equal(a.texture, b.texture), method.name
    brighter = [
        replace(c, images=replace(c.images, views=c.images.views * 0.5, uv=c.images.uv * 0.5))
        for c in first
    ]
    for method in methods:
        difference = method(first)[0].texture - method(brighter)[0].texture
        assert difference.abs().max() > 1e-3, method.name  # what is given does matter


def test_model_results_depend_on_number_and_seed_only(bank: GeometryBank, model: Path) -> None:
    first = cases(bank)
    [method] = ModelMethod.load(str(model), name="m", steps=[2])
    together, alone = method(first), method(first[1:2])
    # Batched matrix products round differently: a few hundred fp32 additions of values near 1.
    assert torch.allclose(together[1].texture, alone[0].texture, atol=1e-4)
    [other] = ModelMethod.load(str(model), name="m", steps=[2], seed=1)
    assert not torch.allclose(other(first)[0].texture, together[0].texture, atol=1e-2)
    assert method.facts["trained"] == {"step": 7}
    assert [m.steps for m in ModelMethod.load(str(model), name="m")] == [1]


def test_a_model_has_its_say_wherever_the_given_view_shows_nothing(
    bank: GeometryBank, model: Path
) -> None:
    """What another view sees is hidden, too."""
    first = cases(bank)
    [method] = ModelMethod.load(str(model), name="m", steps=[2])
    [smooth] = [baseline for baseline in baselines() if baseline.name == SMOOTH]
    for case, made, filled in zip(first, method(first), smooth(first), strict=True):
        assert torch.equal(made.texture[:, case.seen], case.images.uv[:, case.seen])
        elsewhere = case.unseen & case.maps.uv_visible.any(dim=0)
        apart = (made.texture - filled.texture).abs().amax(dim=0)
        assert int(elsewhere.sum()) > 100
        assert float((apart[elsewhere] > 1e-3).float().mean()) > 0.9


def test_models_of_another_size_or_task_are_refused(bank: GeometryBank, model: Path) -> None:
    loaded = load_model(model)
    config = loaded.config
    wrong = ModelMethod("m", replace(loaded, config=replace(config, uv_size=64)))
    with pytest.raises(UsageError, match="16 and 64"):
        wrong(cases(bank))
    blind = ModelMethod("m", replace(loaded, config=replace(config, task="geo2mv")))
    with pytest.raises(UsageError, match="img2tex"):
        blind(cases(bank))


def test_rendering_agrees_with_the_true_views(bank: GeometryBank) -> None:
    for case in cases(bank):
        one = torch.tensor([0.2, 0.5, 0.8])[:, None, None]
        views = case.renderer(one.expand_as(case.images.uv))
        assert torch.allclose(views, one * case.maps.view_mask, atol=1e-5)
        found = scores(case, MadeTexture(texture=case.images.uv, views=case.images.views))
        assert (found["psnr_all"], found["psnr_unseen"]) == (MAX_PSNR, MAX_PSNR)
        shuffled = case.images.uv.flip(-1)
        worse = scores(case, MadeTexture(texture=shuffled, views=case.images.views))
        for name in ("view_agreement", "reference_agreement"):
            assert worse[name] < found[name]
        assert scores(case, MadeTexture(texture=shuffled))["view_agreement"] is None


def test_the_given_view_does_not_count_in_the_agreement_of_the_views(bank: GeometryBank) -> None:
    case = replace(cases(bank)[0], given_view=2)
    views, noise = case.images.views, torch.rand(case.images.views.shape)

    def agreement(*spoilt: int) -> float | None:
        made = torch.stack([noise[k] if k in spoilt else view for k, view in enumerate(views)])
        return scores(case, MadeTexture(texture=case.images.uv, views=made))["view_agreement"]

    assert agreement(2) == agreement() != agreement(0)


def test_constant_and_fully_seen_objects(bank: GeometryBank) -> None:
    case = cases(bank)[0]
    flat = replace(case.images, uv=torch.full_like(case.images.uv, 0.4))
    assert replace(case, images=flat).exclusion == "constant texture"
    everything = replace(case.maps, uv_visible=torch.ones_like(case.maps.uv_visible))
    open_case = replace(case, maps=everything)
    found = scores(open_case, MadeTexture(texture=case.images.uv.flip(-1)))
    assert (found["psnr_unseen"], found["ssim_unseen"]) == (None, None)
    assert found["psnr_all"] is not None
    nothing = replace(case.maps, uv_visible=torch.zeros_like(case.maps.uv_visible))
    assert replace(case, maps=nothing).exclusion == "reference shows nothing"
    for method in baselines():
        assert torch.isfinite(method([replace(case, maps=nothing)])[0].texture).all()


def test_differences_are_paired_and_leave_out_excluded_objects() -> None:
    def row(number: int, mine: float | None, base: float, exclusion: str | None) -> ObjectResult:
        empty: dict[str, float | None] = dict.fromkeys(MEASURES)
        results = {"m": {**empty, "psnr_unseen": mine}, NEAREST: {**empty, "psnr_unseen": base}}
        return ObjectResult(
            number=number,
            family="mug",
            kinds=("wood",),
            unseen_share=0.5,
            exclusion=exclusion,
            results=results,
        )

    rows = [row(0, 12.0, 10.0, None), row(1, 13.0, 14.0, None), row(2, None, 50.0, None)]
    found = Evaluation(methods=(), objects=[*rows, row(3, 60.0, 0.0, "constant texture")])
    difference = found.difference("m", "psnr_unseen")
    assert difference is not None
    assert (difference.count, difference.mean, difference.share_above_zero) == (2, 0.5, 0.5)
    assert found.summary("m", "ssim_all") is None
    assert found.excluded == {"constant texture": 1}


def test_cases_are_always_the_same(bank: GeometryBank) -> None:
    first, second, other = cases(bank), cases(bank), cases(bank, seed=1)
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a.images.uv, b.images.uv)
        assert not torch.equal(a.images.uv, c.images.uv)
    back = cases(bank, given_view=2)[0]
    assert torch.equal(back.reference, first[0].images.views[2])
    with pytest.raises(UsageError, match="1 to 3"):
        list(bank_cases(bank, count=4, seed=0, kinds=split_kinds("held-out")))
    assert isinstance(first[0].renderer, TexelRenderer)


def test_command_writes_results_that_fit_the_schema(seqtex, bank, model, tmp_path) -> None:
    command = ("evaluate", bank.folder, "--model", f"mine={model}", "--steps", "1,2", "--count", 2)
    runs = []
    for name in ("one", "two"):
        done = seqtex(*command, "-o", tmp_path / name)
        assert done.code == 0, done.err
        assert "| mine, 2 steps |" in done.err
        assert "results.md" in done.err
        assert done.out == f"{tmp_path / name}\n"
        runs.append(json.loads((tmp_path / name / "results.json").read_text()))
        assert (tmp_path / name / "pictures.png").stat().st_size > 1000
        assert "| mine, 2 steps |" in (tmp_path / name / "results.md").read_text()
    assert problems(runs[0], RESULT_SCHEMA) == []
    assert problems({**runs[0], "objects": [{}]}, RESULT_SCHEMA)
    for name in ("summary", "differences", "objects"):
        assert runs[0][name] == runs[1][name]
    assert list(runs[0]["methods"])[-2:] == ["mine, 1 steps", "mine, 2 steps"]
    assert str(tmp_path) not in json.dumps(runs[0])
    text = runs[0]["objects"][0]["results"]["mine, 1 steps"]
    assert text["psnr_all"] is not None


def test_command_refuses_what_it_cannot_do(seqtex, bank, tmp_path) -> None:
    for arguments, code in (
        (("--count", "9"), 2),
        (("--view", "top"), 2),
        (("--steps", "2,x"), 2),
        (("--steps", "0"), 2),
        (("--device", "gpu"), 2),
        (("--model", "=x"), 2),
        (("--model", "nowhere"), 4),
    ):
        assert seqtex("evaluate", bank.folder, "-o", tmp_path / "o", *arguments).code == code
    if not torch.cuda.is_available():
        assert seqtex("evaluate", bank.folder, "-o", tmp_path / "o", "--device", "cuda").code == 4
    assert not (tmp_path / "o").exists()
    assert seqtex("evaluate", tmp_path / "none", "-o", tmp_path / "o").code == 3


def test_names_of_models_and_steps(tmp_path: Path) -> None:
    assert named_model("runs/first/model") == ("first", "runs/first/model")
    assert named_model("new=runs/first/model") == ("new", "runs/first/model")
    (tmp_path / "a=b").mkdir()
    assert named_model(str(tmp_path / "a=b")) == ("a=b", str(tmp_path / "a=b"))
    assert (parsed_steps(None), parsed_steps("4, 2,4")) == ((), (4, 2))


@pytest.fixture(scope="module")
def prepared(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared meshes: one with a texture, one of one colour."""
    folder = tmp_path_factory.mktemp("prepared")
    options = SampleOptions(sizes=SIZES)
    prepare_meshes(Preparation(source=assets, folder=folder, options=options), workers=0)
    return folder


def test_prepared_meshes_are_measured_in_their_own_textures(prepared: Path) -> None:
    objects = PreparedObjects(prepared)
    assert objects.left_out == {"bare.ply": "no texture of its own"}
    found = list(objects.cases(count=1, seed=0, kinds=(), given_view=1))
    case = found[0]
    assert (case.family, case.given_view, case.images.kinds) == ("figure.glb", 1, ())
    stored = {s.meta["file"]: s for s in ShardStream(prepared, shuffle_buffer=0)}["figure.glb"]
    assert torch.equal(case.images.uv, stored.images["uv"])
    assert torch.equal(case.reference, stored.images["view1"])
    with pytest.raises(UsageError, match="1 to 1"):
        next(objects.cases(count=2, seed=0, kinds=(), given_view=0))
    with pytest.raises(UsageError, match="0 to 3"):
        next(objects.cases(count=1, seed=0, kinds=(), given_view=4))


def test_prepared_meshes_can_be_painted(prepared: Path) -> None:
    objects = PreparedObjects(prepared, painted=True)
    kinds = split_kinds("held-out")
    first, second = objects.cases(count=2, seed=0, kinds=kinds, given_view=0)
    assert [first.family, second.family] == ["bare.ply", "figure.glb"]
    assert all(set(case.images.kinds) <= set(kinds) for case in (first, second))
    other = next(objects.cases(count=2, seed=1, kinds=kinds, given_view=0))
    assert not torch.equal(other.images.uv, first.images.uv)


def test_command_measures_prepared_meshes(seqtex, prepared, model, bank, tmp_path) -> None:
    out = tmp_path / "results"
    found = seqtex("evaluate", prepared, "-o", out, "--model", model, "--steps", "1")
    assert found.code == 0, found.err
    record = json.loads((out / "results.json").read_text())
    assert problems(record, RESULT_SCHEMA) == []
    assert [one["family"] for one in record["objects"]] == ["figure.glb"]
    scored = record["objects"][0]["results"]
    assert set(scored) == {TRUTH, MEAN, NEAREST, SMOOTH, "mine, 1 steps"}
    table = (out / "results.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| figure.glb"))
    assert f"{scored[NEAREST]['psnr_all']:.2f} / {scored[NEAREST]['psnr_unseen']:.2f}" in row
    assert "bare.ply (no texture of its own)" in table
    assert "their own" in table
    assert (out / "pictures.png").stat().st_size > 0
    refused = seqtex("evaluate", bank.folder, "-o", tmp_path / "b", "--textures", "own")
    assert refused.code == 2
    assert "held-out" in refused.err
