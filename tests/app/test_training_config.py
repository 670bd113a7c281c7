"""The TOML file of a run: what is refused, and the configs that ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqtex.cli.train import parse_settings
from seqtex.records import differences
from seqtex.training.batches import BatchShape
from seqtex.training.comparison import comparable
from seqtex.training.config import Strategy, TrainingConfig, merge_tables, read_config
from seqtex.training.optimizer import OptimizerConfig, make_optimizer
from seqtex.training.parallel import make_parallel
from seqtex.training.starting_point import model_config
from seqtex_core.errors import InputError, UsageError, WeightsError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
SMALL = """
[data]
source = "sphere"
[[stages]]
steps = 10
tasks = { img2tex = 1 }
learning_rate = 1e-3
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_can_be_read(path: Path) -> None:
    config = read_config(path)
    assert model_config(config).name
    assert config.total_steps > 0


def test_shipped_configs_were_found() -> None:
    assert {"smoke", "seqtex-tiny", "wan2.1-t2v-1.3b"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sed = 1\n" + SMALL, "seed"),
        (SMALL + "[run]\nbatchsize = 3", r"config: run\.batchsize: .* 'batch_size'"),
        (SMALL + "[run]\nbatch_size = 3.5", "batch_size"),
        (SMALL + "[run]\nbatch_size = true", "batch_size"),
        (SMALL + "[run]\nprecision = 'fp8'", "fp32"),
        (SMALL + "[optimizer]\nbetas = [0.9]", "betas"),
        (SMALL + "[optimizer]\nbetas = [0.9, 1.0]", "betas"),
        (SMALL + "[noise]\nhigh_noise_bias = 0", "high_noise_bias"),
        (SMALL + "[ema]\nexport_sigma_rel = 0.07", "export_sigma_rel"),
        (SMALL + "[output]\nkeep = 0", "keep"),
        ("seed = -1\n" + SMALL, r"seed: expected 0 to 2\^63 - 1, got -1"),
        (SMALL + "[output]\npreview_count = -1", r"\[output\] preview_count: .* 0 or more, got -1"),
        (SMALL + "[output]\npreview_every = -1", "preview_every"),
        (SMALL + "[output]\npreview_steps = 0", "preview_steps"),
        (SMALL + "[output]\ncheckpoint_minutes = -1", "checkpoint_minutes"),
        (SMALL + "[ema]\nsnapshot_every = -1", "snapshot_every"),
        (SMALL + "warmup_steps = -1", r"\[\[stages\]\] warmup_steps"),
        (SMALL.replace("1e-3", "0.0"), "learning_rate"),
        (SMALL + "[loss]\nuv_weight = nan", "uv_weight"),
        (SMALL + "[run]\nbatch_size = 0", r"\[run\] batch_size: expected 1 or more, got 0"),
        (SMALL.replace("[[stages]]", "prefetch = -1\n[[stages]]"), "prefetch"),
        (SMALL.replace("[[stages]]", "caption_dropout = 1.1\n[[stages]]"), "caption_dropout"),
        (SMALL + "[model]\nbase = 3", "base"),
        ("[data]\nsource = 'sphere'", "stages"),
        (SMALL.replace("source", "sources"), "source"),
        (SMALL.replace("steps = 10", "steps = 0"), "stages"),
        (SMALL.replace("{ img2tex = 1 }", "{ img2tex = 'much' }"), "tasks"),
        ("folder = 'x'\n" + SMALL, "folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        read_config(written(tmp_path, text))


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="TOML"):
        read_config(written(tmp_path, "a = ["))
    with pytest.raises(InputError, match="TOML"):
        read_config(tmp_path / "missing.toml")


def test_overrides_reach_the_model_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    text = SMALL + "[model.overrides.backbone.config]\nnum_layers = 3"
    config = read_config(written(tmp_path, text), parse_settings(["model.overrides.uv_size=64"]))
    model = model_config(config)
    assert model.backbone["config"]["num_layers"] == 3
    assert model.uv_size == 64
    bad = read_config(written(tmp_path, SMALL + "[model.overrides]\nuvsize = 3"))
    with pytest.raises(WeightsError, match="uvsize"):
        model_config(bad)


def test_a_trained_model_does_not_say_what_its_base_is_good_for(tmp_path: Path) -> None:
    made = model_config(read_config(written(tmp_path, SMALL)))
    assert made.name == "seqtex-tiny-trained"
    assert made.summary == "Built as seqtex-tiny, trained from nothing with `seqtex train`."
    again = model_config(read_config(written(tmp_path, SMALL + "[model]\nweights = 'base'")))
    assert "from its weights" in again.summary
    named = SMALL + "[model]\nname = 'mine'\nsummary = 'Good for hats.'"
    own = model_config(read_config(written(tmp_path, named)))
    assert (own.name, own.summary) == ("mine", "Good for hats.")
    full = model_config(read_config(written(tmp_path, SMALL + "[model]\nbase = 'ltx-video-2b'")))
    assert full.name.endswith("-trained")
    assert not full.name.endswith("-trained-trained")
    assert "trained with `seqtex train`" in full.summary


def test_settings_of_the_command_line() -> None:
    parsed = parse_settings(["run.batch_size=4", "run.precision=bf16", "ema.sigma_rels=[0.1]"])
    assert parsed == {"run": {"batch_size": 4, "precision": "bf16"}, "ema": {"sigma_rels": [0.1]}}
    for bad in ("run.batch_size", "=3"):
        with pytest.raises(UsageError, match="--set"):
            parse_settings([bad])
    assert merge_tables({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_a_batch_is_split_evenly(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, SMALL), {"run": {"batch_size": 6, "micro_batch": 4}})
    with pytest.raises(
        UsageError, match=r"multiple of 4 \(micro_batch\) x 1 .*got 6.*nearest is 8"
    ):
        BatchShape.of(config, rank=0, world_size=1)
    for world_size, micro in ((1, 6), (2, 3), (3, 2)):
        whole = read_config(written(tmp_path, SMALL), {"run": {"batch_size": 6}})
        assert BatchShape.of(whole, rank=0, world_size=world_size).micro_batch == micro
    with pytest.raises(UsageError, match=r"x 4 \(processes\)"):
        BatchShape.of(whole, rank=0, world_size=4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_need_a_launcher(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match=rf"strategy {strategy}.*launcher.*torchrun"):
        make_parallel(strategy, torch.device("cpu"))


def test_devices_that_are_not_there(tmp_path: Path, seqtex: Callable[..., Any]) -> None:
    path, out = written(tmp_path, SMALL), tmp_path / "run"
    odd = seqtex("train", path, "-o", out, "--device", "gpu")
    assert (odd.code, "--device" in odd.err) == (2, True)
    if not torch.cuda.is_available():
        missing = seqtex("train", path, "-o", out, "--device", "cuda")
        assert missing.code == 4
        assert "device 'cuda'" in missing.err
    assert not out.exists()


def test_one_process_of_several_says_where_the_model_is(
    tmp_path: Path, seqtex: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqtex.cli.train._train", lambda *_, **__: True)
    path, out = written(tmp_path, SMALL), tmp_path / "run"
    for rank, said in (("0", f"{out / 'model'}\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert seqtex("train", path, "-o", out).out == said


def test_stages_follow_one_another(tmp_path: Path) -> None:
    second = "[[stages]]\nsteps = 5\ntasks = { geo2mv = 1 }\nlearning_rate = 1e-4\nname = 'two'\n"
    config = read_config(written(tmp_path, SMALL + second))
    assert config.total_steps == 15
    assert [config.stage_at(step)[1] for step in (0, 9, 10, 14)] == [0, 9, 0, 4]
    assert [config.stage_at(step)[0].name for step in (9, 10)] == ["train", "two"]


def test_matrices_decay_but_tables_of_modulation_and_vectors_do_not() -> None:
    named = {"to_q.weight": (4, 4), "to_q.bias": (4,), "blocks.0.scale_shift_table": (1, 6, 4)}
    parameters = {name: torch.nn.Parameter(torch.zeros(size)) for name, size in named.items()}
    optimizer = make_optimizer(parameters, OptimizerConfig(weight_decay=0.25))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decays[id(p)] for p in parameters.values()] == [0.25, 0.0, 0.0]


def test_only_what_does_not_change_learning_may_differ_on_resume(tmp_path: Path) -> None:
    def read(changes: list[str]) -> TrainingConfig:
        return read_config(written(tmp_path, SMALL), parse_settings(changes))

    base = comparable(read([]))
    free = ["output.keep=5", "run.micro_batch=1", "run.gradient_checkpointing=true"]
    assert (
        differences(base, comparable(read([*free, "data.prefetch=2", "data.cache_latents='x'"])))
        == []
    )
    changed = ["seed=3", "run.batch_size=2", "noise.shift=3.0"]
    found = differences(base, comparable(read(changed)))
    assert found == ["noise.shift", "run.batch_size", "seed"]
